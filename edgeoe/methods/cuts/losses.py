"""One currency of loss for narrowing and dropping: what the outputs of real images change by, after a cheap repair."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from edgeoe.methods.cuts.parts import Parts, block_choice
from edgeoe.models.layer_statistics import LayerStatistics, layer_statistics
from edgeoe.models.observation import Recorder
from edgeoe.models.reconstruction import Rows, columns, obs_order, small_batches
from edgeoe.models.repair import refit_without, repairs_of_blocks
from edgeoe.models.sensitivity import in_passes, refittable_consumers, regressions
from edgeoe.models.structure import Structure, read_structure
from edgeoe.progress import Progress, silent
from edgeoe.pruning.groups import Group
from edgeoe.pruning.removal import without_blocks, without_channels
from edgeoe.run.saved_work import SavedWork

__all__ = ["Losses", "Reference", "measure_losses", "thinned"]

_JUDGED, _SOLVED = 64, 256  # images that a change is measured on, and that a block's repair is solved with


def thinned(rows: Rows, count: int) -> Rows:
    """About `count` images of `rows`, evenly spaced."""
    x, weight = (torch.cat([row[part] for row in rows]) for part in (0, 1))
    every = max(1, len(x) // count)
    return small_batches([(x[::every], weight[::every])])


@dataclass(frozen=True, slots=True)
class _Outputs:
    """What a network computes of one batch.

    features: (N, F), before pooling, flattened.
    logits: (N, K).
    """

    features: Tensor
    logits: Tensor


class Reference:
    """What the teacher computes of some images, and how far another network is from it.

    teacher: on the device of `rows`, in eval mode.
    rows: images and what each weighs.
    """

    def __init__(self, teacher: nn.Module, structure: Structure, rows: Rows) -> None:
        self._structure, self._rows = structure, rows
        self._expected = [self._outputs(teacher, x) for x, _ in rows]
        weights = torch.cat([weight for _, weight in rows])
        self._weights = weights / weights.sum()
        self._scales = (
            self._variance([one.features for one in self._expected]),
            self._variance([one.logits for one in self._expected]),
        )

    def change(self, student: nn.Module) -> float:
        """By how much the features and the logits of `student` differ, each as a share of the teacher's variance.

        Features that are no longer the teacher's in number don't count, and logits count twice instead.
        """
        errors = []
        for (x, _), expected in zip(self._rows, self._expected, strict=True):
            outputs = self._outputs(student, x)
            logits = (outputs.logits - expected.logits).square().sum(1) / self._scales[1]
            if outputs.features.shape == expected.features.shape:
                features = (outputs.features - expected.features).square().sum(1) / self._scales[0]
            else:
                features = logits
            errors.append(features + logits)
        return float((torch.cat(errors) * self._weights).sum())

    @torch.no_grad()
    def _outputs(self, model: nn.Module, x: Tensor) -> _Outputs:
        with Recorder(model, (self._structure.features,)) as recorder:
            logits = model(x).float()
        return _Outputs(recorder.values()[0].float().flatten(1), logits)

    def _variance(self, parts: Sequence[Tensor]) -> float:
        values = torch.cat(list(parts))
        mean = (values * self._weights[:, None]).sum(0)
        return max(1e-12, float(((values - mean).square().sum(1) * self._weights).sum()))


@dataclass(frozen=True, slots=True)
class Losses:
    """What cutting each part loses.

    options: {group or block: loss of each option, the first of which keeps it whole}.
    orders: {group: units in the order in which they are pruned}.
    """

    options: dict[str, tuple[float, ...]] = field(default_factory=dict)
    orders: dict[str, tuple[int, ...]] = field(default_factory=dict)


@torch.no_grad()
def measure_losses(
    teacher: nn.Module, parts: Parts, rows: Rows, *, work: SavedWork | None = None, progress: Progress = silent
) -> Losses:
    """What each part of `parts` loses, one at a time, after a closed-form repair.

    Narrowing: the units go in the order of the optimal brain surgeon, and the layers that read them are refitted. The
    loss is measured at two widths, and between these follows the least-squares error of those layers.
    Dropping: the layer before the block is refitted to make up for it.

    teacher: on the device of `rows`, in eval mode.
    rows: images and what each weighs.
    work: what an interrupted compression has measured.
    """
    work = work or SavedWork()
    structure = read_structure(teacher, parts.shape)
    reference = Reference(teacher, structure, thinned(rows, _JUDGED))
    losses = Losses()
    for groups in in_passes(teacher, parts.narrowed):
        consumers = refittable_consumers(teacher, [one for one in groups if _loss_key(one.name) not in work.values])
        statistics = layer_statistics(teacher, consumers, structure, rows, progress=progress) if consumers else {}
        with progress("Measuring losses", len(groups)) as advance:
            for group in groups:
                measured = partial(_group_losses, group, teacher, parts, statistics, reference)
                order, options = work.kept(_loss_key(group.name), measured)
                losses.orders[group.name], losses.options[group.name] = tuple(order), tuple(options)
                advance()
    for block, change in zip(parts.blocks, _block_losses(teacher, parts, rows, reference, work, progress), strict=True):
        losses.options[block_choice(block.name)] = (0.0, change)
    return losses


def _loss_key(name: str) -> str:
    return f"loss of {name}"


def _block_losses(
    teacher: nn.Module, parts: Parts, rows: Rows, reference: Reference, work: SavedWork, progress: Progress
) -> Iterator[float]:
    """What dropping each block loses."""
    keys = {block.name: _loss_key(block_choice(block.name)) for block in parts.blocks}
    repairs = {}
    if keys.values() - work.values.keys():
        structure = read_structure(teacher, parts.shape)
        repairs = repairs_of_blocks(teacher, structure, thinned(rows, _SOLVED), progress=progress)

    def change_without(name: str) -> float:
        student = without_blocks(teacher, [name])
        change = reference.change(student)
        if name in repairs:
            repairs[name].apply(student)
            change = min(change, reference.change(student))
        return change

    with progress("Measuring losses of blocks", len(keys)) as advance:
        for name, key in keys.items():
            yield work.kept(key, partial(change_without, name))
            advance()


def _group_losses(
    group: Group,
    teacher: nn.Module,
    parts: Parts,
    statistics: Mapping[str, LayerStatistics],
    reference: Reference,
) -> tuple[tuple[int, ...], list[float]]:
    """The units of `group` in the order in which they are pruned, and what it loses at each of its widths."""
    order, errors = _ranked(group, teacher, statistics)
    levels = parts.levels[group.name]
    judged = {
        pruned: reference.change(_narrowed(teacher, parts, group, order[:pruned], statistics))
        for pruned in {levels[(len(levels) - 1) // 2], levels[-1]}
    }
    return order, [0.0, *_between(levels, errors, judged)]


def _ranked(
    group: Group, teacher: nn.Module, statistics: Mapping[str, LayerStatistics]
) -> tuple[tuple[int, ...], list[float]]:
    """The units of `group` in optimal brain surgeon order, and the error once the first 0, 1, 2, ... are pruned."""
    problems = regressions(teacher, group, statistics)
    if not problems:
        return group.order, [float(pruned) for pruned in range(len(group.order) + 1)]
    order, added = obs_order(problems)
    errors = [0.0]
    for error in added:
        errors.append(errors[-1] + error)
    return order, errors


def _between(levels: Sequence[int], errors: Sequence[float], judged: Mapping[int, float]) -> list[float]:
    """The loss at each of `levels`: errors times a factor that is known at the `judged` levels."""
    known = sorted(judged)
    factors = [judged[pruned] / max(errors[min(pruned, len(errors) - 1)], 1e-12) for pruned in known]
    losses = []
    for pruned in levels:
        if pruned <= known[0]:
            factor = factors[0]
        else:
            part = (pruned - known[0]) / max(1, known[-1] - known[0])
            factor = factors[0] ** (1 - part) * factors[-1] ** part
        losses.append(errors[min(pruned, len(errors) - 1)] * factor)
    return losses


def _narrowed(
    teacher: nn.Module,
    parts: Parts,
    group: Group,
    removed: Sequence[int],
    statistics: Mapping[str, LayerStatistics],
) -> nn.Module:
    """The teacher without some units of `group`, the layers that read them refitted."""
    student = copy.deepcopy(teacher)
    for name, spread in group.consumers.items():
        if name in statistics:
            layer = student.get_submodule(name)
            held = columns(layer, spread)
            refit_without(layer, torch.cat([held[unit] for unit in removed]), statistics[name].moments)
    return without_channels(student, parts.groups, {group.name: tuple(removed)})
