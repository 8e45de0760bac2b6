"""Closed-form repair of a pruned network: layers are refitted to what the teacher has there, by least squares.

Source: Li et al., "Few Sample Knowledge Distillation", CVPR 2020, solve for a 1x1 convolution after a layer; here all
of its weights are solved for, and the layer before a dropped block takes over what that computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeoe.models.observation import HookPoint, Observer, ResidualSum, stream
from edgeoe.models.reconstruction import (
    Rows,
    can_regress,
    draw_places,
    matrix,
    norm_gain,
    patches,
    positions,
    ridge,
    small_batches,
    take,
)
from edgeoe.models.structure import Block, Structure
from edgeoe.progress import Progress, silent
from edgeoe.pruning.prune import Pruned

__all__ = ["kept_outputs", "refit_without", "repair", "repairs_of_blocks"]

_DAMPING = 1e-3  # ridge, as a share of the mean diagonal of the second moments
_LEAST_GAIN = 1e-3  # of the greatest: a batch norm that all but switches a channel off tells nothing of its input
_SPARSER = 8  # an eighth of the positions that a layer's moments are measured at, about 50,000
_CHANNELS = 20  # of so many outputs, fewer positions of wider layers: what the teacher has there takes 32 MB at most


def kept_outputs(teacher: nn.Module, pruned: Pruned, layer: str) -> Tensor:
    """Which outputs of the teacher's `layer` the student still has."""
    gone = {
        index
        for group in pruned.groups
        for channel in pruned.removed.get(group.name, ())
        if layer in group.producers
        for index in group.producers[layer][channel]
    }
    outputs = teacher.get_submodule(layer).weight.shape[0]  # type: ignore[index]
    return torch.tensor([index for index in range(outputs) if index not in gone])


@torch.no_grad()
def refit_without(layer: nn.Module, lost: Tensor, moments: Tensor) -> None:
    """Zero some columns of the weight of `layer`, in place, and solve for the others by least squares.

    lost: those columns.
    moments: (D, D) second moments of the layer's inputs.
    """
    old = matrix(layer)
    remains = torch.ones(old.shape[1], dtype=torch.bool)
    remains[lost] = False
    kept = remains.nonzero()[:, 0].to(old.device)
    new = torch.zeros_like(old)
    new[:, kept] = ridge(moments[kept][:, kept], moments[kept] @ old.T, prior=old[:, kept])
    weight: Tensor = layer.weight  # type: ignore[assignment]
    weight.copy_(new.view_as(weight))


@dataclass(frozen=True, slots=True)
class Change:
    """How a layer is to change.

    weights: (O, D) added to those of the layer.
    shift: (O,) added to its outputs, by its bias or the batch norm right after it; None if it has neither.
    """

    layer: str
    norm: str | None
    weights: Tensor
    shift: Tensor | None

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Change that layer of `model`, in place."""
        layer = model.get_submodule(self.layer)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        weight.add_(self.weights.reshape(weight.shape).to(weight.device))
        bias: Tensor | None = layer.bias  # type: ignore[assignment]
        if self.shift is not None and bias is not None:
            bias.add_(self.shift.to(bias.device))
        elif self.shift is not None and self.norm is not None:
            mean: Tensor = model.get_submodule(self.norm).running_mean  # type: ignore[assignment]
            mean.sub_(self.shift.to(mean.device))


@torch.no_grad()
def repairs_of_blocks(
    teacher: nn.Module, structure: Structure, rows: Rows, *, progress: Progress = silent
) -> dict[str, Change]:
    """{block: the change of the layer before it by which that layer makes up for the block's loss}, in one pass.

    Blocks are missing that have no such layer, or whose output is no residual sum.

    teacher: on the device of `rows`, in eval mode.
    structure: of `teacher`.
    rows: images to solve with, and their weights.
    """
    ends = _block_sums(structure)
    befores = {block.name: _last_producer(block, structure, ()) for block in structure.blocks if block.name in ends}
    usable = {block: layer for block, layer in befores.items() if layer and can_regress(teacher.get_submodule(layer))}
    fits = {
        block: _Fit(teacher, layer, structure.norms.get(layer), images=_count(rows)) for block, layer in usable.items()
    }
    parts, sums = small_batches(rows), _own_sums(structure)
    with progress("Repairing blocks", len(parts)) as advance:
        for x, weight in parts if fits else ():
            watch = _Watch()
            for block, fit in fits.items():
                fit.begin(len(x), weight)
                watch.input(usable[block], fit.see_input)
                watch.output(usable[block], sums.get(usable[block]), fit.see_student)
                watch.sum(ends[block], fit.see_target)
            watch.run(teacher, x)
            advance()
    return {block: fit.solve() for block, fit in fits.items()}


@torch.no_grad()
def repair(
    pruned: Pruned,
    teacher: nn.Module,
    structures: tuple[Structure, Structure],
    rows: Rows,
    *,
    progress: Progress = silent,
) -> None:
    """Refit layers of a student, in place and in their order, so that it computes what the teacher does.

    Refitted are the layers that lost inputs, those right before a dropped block, and from the first of these on every
    layer that goes into a residual sum, so that it puts right what came before.

    pruned: its model is on the device of `rows`, in eval mode.
    structures: of the teacher and of the student.
    rows: images to solve with, and their weights.
    """
    student, parts = pruned.model, small_batches(rows)
    places = [place for place in _places(pruned, *structures) if can_regress(student.get_submodule(place.layer))]
    with progress("Repairing layers", len(places) + 1) as advance:
        targets = _targets(teacher, structures[0], places, parts, images=_count(rows))
        advance()
        for place in places:
            norm = structures[1].norms.get(place.layer)
            kept = kept_outputs(teacher, pruned, place.layer).to(rows[0][0].device)
            fit = _Fit(student, place.layer, norm, images=_count(rows), raw=place.raw)
            for (x, weight), target in zip(parts, targets.pop(place.layer), strict=True):
                fit.begin(len(x), weight)
                fit.target = target[..., kept]
                watch = _Watch()
                watch.input(place.layer, fit.see_input)
                watch.output(place.layer, place.student, fit.see_student)
                watch.run(student, x)
            fit.solve().apply(student)
            advance()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the output of a layer is compared with the teacher.

    student, teacher: the residual sum that it goes into, in either network; None compares its own output.
    """

    layer: str
    student: ResidualSum | None
    teacher: ResidualSum | None

    @property
    def raw(self) -> bool:
        """Whether the outputs of the layer itself are compared, before any batch norm."""
        return self.student is None and self.teacher is None


def _places(pruned: Pruned, teacher: Structure, student: Structure) -> list[_Place]:
    """Where the student is refitted, in the order of its layers."""
    taken, before, after = _stand_ins(teacher, pruned.dropped), _own_sums(teacher), _own_sums(student)
    changed = {name for group in pruned.groups if group.name in pruned.removed for name in group.consumers}
    places, touched = [], False
    for name in student.layers:
        lost = name in taken or name in changed
        if name == student.head or not (lost or (touched and name in after)):
            continue
        touched = True
        if name in taken or (name in after) == (name in before):
            places.append(_Place(name, after.get(name), taken.get(name, before.get(name))))
    return places


def _own_sums(structure: Structure) -> dict[str, ResidualSum]:
    """{layer: the residual sum that its output goes straight into}, but where it enters the block that the sum ends.

    The branch of that block reads the output too: what is added to it is not what the sum gains.
    """
    ends = _block_sums(structure)
    entered = {
        (name, ends[block.name].index) for block in structure.blocks if block.name in ends for name in block.producers
    }
    return {name: place for name, place in structure.sums.items() if (name, place.index) not in entered}


def _stand_ins(structure: Structure, dropped: Collection[str]) -> dict[str, ResidualSum]:
    """{layer: the sum of a dropped block that its own sum now stands for}, of layers right before dropped blocks.

    structure: of the teacher.
    """
    ends = _block_sums(structure)
    taken: dict[str, ResidualSum] = {}
    for block in structure.blocks:
        if block.name in dropped and block.name in ends and (before := _last_producer(block, structure, dropped)):
            taken[before] = ends[block.name]  # of several blocks in a row, the last
    return taken


def _block_sums(structure: Structure) -> dict[str, ResidualSum]:
    """{block: the sum that is its output}, of the blocks whose last layer goes straight into it."""
    sums: dict[str, ResidualSum] = {}
    for block in structure.blocks:
        within = [place for name, place in structure.sums.items() if name.startswith(f"{block.name}.")]
        if within:
            sums[block.name] = max(within, key=lambda place: place.index)
    return sums


def _last_producer(block: Block, structure: Structure, dropped: Iterable[str]) -> str | None:
    """The last layer that adds to the input of `block` and is not in a dropped block."""
    outside = [
        name
        for name in block.producers
        if name in structure.layers and not any(name.startswith(f"{other}.") for other in dropped)
    ]
    return max(outside, key=structure.layers.index) if outside else None


def _targets(
    teacher: nn.Module, structure: Structure, places: Sequence[_Place], parts: Rows, *, images: int
) -> dict[str, list[Tensor]]:
    """{layer: for each batch the (N, P, O) outputs or sums of the teacher at the positions that `_Fit` draws}."""
    targets: dict[str, list[Tensor]] = {place.layer: [] for place in places}
    fits = {
        place.layer: _Fit(teacher, place.layer, structure.norms.get(place.layer), images=images, raw=place.raw)
        for place in places
    }
    for x, weight in parts:
        watch = _Watch()
        for place in places:
            fit = fits[place.layer]
            fit.begin(len(x), weight)
            watch.output(place.layer, place.teacher, partial(_keep, fit, targets[place.layer]))
        watch.run(teacher, x)
    return targets


def _keep(fit: _Fit, kept: list[Tensor], y: Tensor, summed: bool) -> None:
    kept.append(fit.drawn(y, summed).clone())


class _Fit:
    """The regression of one layer, added up batch by batch: inputs at drawn positions, and what the outputs lack.

    raw: outputs are compared before the batch norm right after the layer, else after it.
    target: (N, P, O) what the outputs should be, in the current batch.
    """

    def __init__(self, model: nn.Module, layer: str, norm: str | None, *, images: int, raw: bool = False) -> None:
        self._model, self._name, self._norm, self._raw = model, layer, norm, raw
        self._layer = model.get_submodule(layer)
        self._images = max(_SPARSER, len(matrix(self._layer)) // _CHANNELS) * images
        self._shifts = getattr(self._layer, "bias", None) is not None or norm is not None
        self._draws = 0
        self._moments = self._cross = torch.zeros(())
        self.target: Tensor | None = None

    def begin(self, images: int, weight: Tensor) -> None:
        """Begin a batch of so many images. weight: (N,) of each."""
        self._n, self._weight, self._draws, self.target = images, weight, self._draws + 1, None

    def see_input(self, x: Tensor) -> None:
        """x: input of the layer."""
        self._u = torch.cat([*patches(self._layer, x, total=self._images, generator=self._generator())], 1)

    def see_student(self, y: Tensor, summed: bool) -> None:
        """y: output of the layer, or the sum that it goes into."""
        self._y = self.drawn(y, summed)
        if self.target is not None:
            self._add(self.target)

    def see_target(self, y: Tensor) -> None:
        """y: the sum that the layer's own should become."""
        self._add(self.drawn(y, True))

    def drawn(self, y: Tensor, summed: bool) -> Tensor:
        """(N, P, O) of y at the drawn positions, batch norm applied to a layer's own output unless `raw`."""
        rows = positions(self._layer, y)
        rows = take(rows, draw_places(len(rows), rows.shape[1], total=self._images, generator=self._generator()))
        return rows if summed or self._raw else _normalised(self._model, self._norm, rows)

    def solve(self) -> Change:
        """The change of the layer."""
        g = self._moments.double()
        g.diagonal().add_(_DAMPING * g.diagonal().mean().clamp(min=1e-12))
        change = torch.linalg.solve(g, self._cross.double()).T.to(self._moments.dtype)  # (O, D) or (O, D + 1)
        columns = matrix(self._layer).shape[1]
        return Change(self._name, self._norm, change[:, :columns], change[:, columns] if self._shifts else None)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._draws)  # the same positions for inputs and outputs of a batch

    def _add(self, target: Tensor) -> None:
        lacks = target - self._y
        if not self._raw:
            gain = norm_gain(self._model, self._norm, like=lacks[0, 0])
            usable = gain.abs() > _LEAST_GAIN * gain.abs().max()
            lacks = lacks * torch.where(usable, 1 / torch.where(usable, gain, 1.0), 0.0)
        u = torch.cat([self._u, torch.ones_like(self._u[..., :1])], 2) if self._shifts else self._u
        share = (self._weight / u.shape[1]).sqrt()[:, None, None]
        u, lacks = (u * share).flatten(0, 1), (lacks * share).flatten(0, 1)
        self._moments, self._cross = self._moments + u.T @ u, self._cross + u.T @ lacks
        del self._u, self._y


class _Watch:
    """What is observed during one forward pass; several observers may share a place."""

    def __init__(self) -> None:
        self._points: dict[HookPoint, list[Observer]] = {}
        self._sums: dict[int, list[Observer]] = {}

    def input(self, layer: str, see: Observer) -> None:
        """Observe the input of `layer`."""
        self._points.setdefault(HookPoint(layer, "input"), []).append(see)

    def output(self, layer: str, place: ResidualSum | None, see: Callable[[Tensor, bool], None]) -> None:
        """Observe the sum at `place`, or without one the output of `layer`; `see` is told whether it is a sum."""
        if place is None:
            self._points.setdefault(HookPoint(layer), []).append(lambda y: see(y, False))
        else:
            self.sum(place, lambda y: see(y, True))

    def sum(self, place: ResidualSum, see: Observer) -> None:
        """Observe a residual sum."""
        self._sums.setdefault(place.index, []).append(see)

    def run(self, model: nn.Module, x: Tensor) -> None:
        """Run `model` on x."""
        points: Mapping[HookPoint, Observer] = {point: partial(_each, seeing) for point, seeing in self._points.items()}
        stream(model, x, points, {index: partial(_each, seeing) for index, seeing in self._sums.items()})


def _each(observers: Iterable[Observer], tensor: Tensor) -> None:
    for observer in observers:
        observer(tensor)


def _normalised(model: nn.Module, norm: str | None, y: Tensor) -> Tensor:
    """y (N, P, O) after the batch norm `norm`, and before an activation that its module may include."""
    if norm is None:
        return y
    module = model.get_submodule(norm)
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: S101 - what the structure calls a norm
    statistics = module.running_mean, module.running_var
    flat = F.batch_norm(y.flatten(0, 1), *statistics, module.weight, module.bias, eps=module.eps)
    return flat.view(y.shape)


def _count(rows: Rows) -> int:
    return sum(len(x) for x, _ in rows)
