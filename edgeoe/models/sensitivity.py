"""Sensitivity of groups of channels: the error that pruning them causes, with all other weights refitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgeoe.models.layer_statistics import LayerStatistics, layer_statistics
from edgeoe.models.reconstruction import Rows, can_regress, columns, matrix, obs_order
from edgeoe.models.structure import Structure
from edgeoe.progress import Progress, silent
from edgeoe.pruning.groups import Group
from edgeoe.run.saved_work import SavedWork

__all__ = ["in_passes", "measure_sensitivity", "refittable_consumers", "regressions"]

_MOMENTS = 2**27  # numbers in the moments of one pass: half a gigabyte


@torch.no_grad()
def measure_sensitivity(
    teacher: nn.Module,
    groups: Sequence[Group],
    structure: Structure,
    rows: Rows,
    *,
    work: SavedWork | None = None,
    progress: Progress = silent,
) -> Iterator[Group]:
    """`groups` with their sensitivity: the error in the consumers' outputs that each further pruned unit adds.

    The error is a share of the variance of those outputs (of the residual sum, where they go into one), summed over
    consumers. It is the least that so many units can cause, with all remaining weights refitted: it says how wide a
    group must be, not which units to prune, so `order` stays. A group without a consumer that can be refitted (grouped
    convolutions only) is refused. All layers are measured in one pass over `rows`, unless their moments take more than
    half a gigabyte.

    teacher: on the device of `rows`, in eval mode.
    rows: images with weights.
    work: what an interrupted compression has measured.
    """
    for part in in_passes(teacher, groups):
        yield from _measure(teacher, part, structure, rows, work=work or SavedWork(), progress=progress)


def in_passes(teacher: nn.Module, groups: Sequence[Group]) -> Iterator[list[Group]]:
    """`groups` in parts whose moments fit into memory together; a group that does not fit has a pass of its own."""
    part: list[Group] = []
    for group in groups:
        numbers = _numbers(refittable_consumers(teacher, [*part, group]))
        if part and numbers > max(_MOMENTS, _numbers(refittable_consumers(teacher, part))):
            yield part
            part = []
        part.append(group)
    if part:
        yield part


def _numbers(layers: Mapping[str, nn.Module]) -> int:
    return sum(matrix(layer).shape[1] ** 2 for layer in layers.values())


def refittable_consumers(teacher: nn.Module, groups: Sequence[Group]) -> dict[str, nn.Module]:
    """The layers to be refitted once channels of `groups` are pruned."""
    names = (name for group in groups if not group.refused for name in group.consumers)
    layers = {name: teacher.get_submodule(name) for name in names}
    return {name: layer for name, layer in layers.items() if can_regress(layer)}


def regressions(
    teacher: nn.Module, group: Group, statistics: Mapping[str, LayerStatistics]
) -> list[tuple[Tensor, Tensor, list[Tensor]]]:
    """What `obs_order` takes of the consumers of `group` that `statistics` are of."""
    problems = []
    for name, spread in group.consumers.items():
        if name in statistics and all(len(inputs) == len(spread[0]) > 0 for inputs in spread):
            layer, one = teacher.get_submodule(name), statistics[name]
            problems.append((one.moments, matrix(layer) * one.scale[:, None], columns(layer, spread)))
    return problems


def _measure(
    teacher: nn.Module,
    groups: Sequence[Group],
    structure: Structure,
    rows: Rows,
    *,
    work: SavedWork,
    progress: Progress,
) -> Iterator[Group]:
    known = {group.name for group in groups if f"sensitivity of {group.name}" in work.values}
    consumers = refittable_consumers(teacher, [group for group in groups if group.name not in known])
    statistics = layer_statistics(teacher, consumers, structure, rows, progress=progress) if consumers else {}
    with progress("Measuring sensitivity", len(groups)) as advance:
        for group in groups:
            advance()

            def added(group: Group = group) -> list[float] | None:
                problems = [] if group.refused else regressions(teacher, group, statistics)
                return [*obs_order(problems)[1]] if problems else None

            sensitivity = work.kept(f"sensitivity of {group.name}", added)
            if sensitivity is None:
                reason = group.refused or "no consumer of its channels can be refitted"
                yield replace(group, refused=reason)
                continue
            yield replace(group, sensitivity=tuple(sensitivity))
