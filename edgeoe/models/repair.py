"""Closed-form repair of a pruned network: layers are refitted, one after the other, to what the teacher has there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeoe.models.observation import HookPoint, ResidualSum, capture, capture_operands
from edgeoe.models.reconstruction import Rows, can_regress, matrix, norm_gain, patches, positions, ridge
from edgeoe.models.structure import Block, Structure
from edgeoe.pruning.prune import Pruned

__all__ = ["Place", "block_sums", "kept_outputs", "places_to_repair", "refit_without", "repair_layer", "stand_ins"]

_DAMPING = 1e-3  # ridge, as a share of the mean diagonal of the second moments
_LEAST_GAIN = 1e-3  # of the greatest: a batch norm that all but switches a channel off tells nothing of its input


@dataclass(frozen=True, slots=True)
class Place:
    """Where the output of a layer is compared with the teacher.

    layer: the layer that is refitted.
    student, teacher: the residual sum that it goes into, in either network; None compares its own output.
    """

    layer: str
    student: ResidualSum | None
    teacher: ResidualSum | None


def block_sums(structure: Structure) -> dict[str, ResidualSum]:
    """{block: the sum that is its output}, of the blocks whose last layer goes straight into it."""
    sums: dict[str, ResidualSum] = {}
    for block in structure.blocks:
        within = [place for name, place in structure.sums.items() if name.startswith(f"{block.name}.")]
        if within:
            sums[block.name] = max(within, key=lambda place: place.index)
    return sums


def stand_ins(structure: Structure, dropped: Collection[str]) -> dict[str, ResidualSum]:
    """{layer: the teacher's sum that its own sum now stands for}, of layers right before blocks that are dropped.

    structure: of the teacher.
    """
    ends = block_sums(structure)
    taken: dict[str, ResidualSum] = {}
    for block in structure.blocks:
        if block.name not in dropped or block.name not in ends:
            continue
        if (before := _last_producer(block, structure, dropped)) is not None:
            taken[before] = ends[block.name]
    return taken


def _last_producer(block: Block, structure: Structure, dropped: Collection[str]) -> str | None:
    """The last layer that adds to the input of `block` and is not in a dropped block."""
    left = [
        name
        for name in block.producers
        if name in structure.layers and not any(name.startswith(f"{other}.") for other in dropped)
    ]
    return max(left, key=structure.layers.index) if left else None


def places_to_repair(
    teacher: Structure, student: Structure, *, dropped: Collection[str], changed: Collection[str]
) -> list[Place]:
    """Where to refit a student without the blocks `dropped`, in the order of its layers.

    Refitted are the layers before a dropped block, so that they make up for it, those in `changed`, and from the first
    of these on every layer that goes into a residual sum, so that it puts right what came before.

    teacher, student: their structures.
    changed: layers that lost inputs.
    """
    taken = stand_ins(teacher, dropped)
    touched = [at for at, name in enumerate(student.layers) if name in taken or name in changed]
    places = []
    for at, name in enumerate(student.layers):
        if name == student.head or (name not in taken and name not in changed and not (
            touched and at > touched[0] and name in student.sums
        )):
            continue
        target = taken.get(name, teacher.sums.get(name))
        if name in taken or (name in student.sums) == (name in teacher.sums):
            places.append(Place(name, student.sums.get(name), target))
    return places


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


@torch.no_grad()
def repair_layer(
    student: nn.Module,
    teacher: nn.Module,
    place: Place,
    *,
    kept: Tensor,
    norm: str | None,
    rows: Rows,
    damping: float = _DAMPING,
) -> bool:
    """Refit a layer of `student`, in place, by least squares: its sum, or its output, becomes the teacher's.

    kept: the teacher's outputs of that layer that the student has.
    norm: the batch norm right after the layer in the student; None if there is none.
    rows: images to solve with, and their weights.
    Returns whether the layer could be refitted.
    """
    layer = student.get_submodule(place.layer)
    if not can_regress(layer):
        return False
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    total, mass = sum(len(x) for x, _ in rows), sum(float(weight.sum()) for _, weight in rows)
    moments = cross = torch.zeros(())
    for x, weight in rows:
        lacks = _lacks(student, teacher, place, kept, x, norm)
        (inputs,) = capture(student, x, HookPoint(place.layer, "input"))
        u, lacks = _draw(layer, inputs, lacks, total=total, generator=generator)
        share = (weight / (mass * u.shape[1])).sqrt().repeat_interleave(u.shape[1])[:, None]
        u, lacks = u.flatten(0, 1), lacks.flatten(0, 1)
        if bias is not None or norm is not None:
            u = torch.cat([u, torch.ones_like(u[:, :1])], 1)
        moments = moments + (u * share).T @ (u * share)
        cross = cross + (u * share).T @ (lacks * share)
    g = moments.double()
    loading = damping * g.diagonal().mean().clamp(min=1e-12) * torch.eye(len(g), dtype=g.dtype, device=g.device)
    change = torch.linalg.solve(g + loading, cross.double()).T.float()  # (O, D) or (O, D + 1)
    weights: Tensor = layer.weight  # type: ignore[assignment]
    columns = weights.flatten(1).shape[1]
    weights.add_(change[:, :columns].reshape(weights.shape))
    if bias is not None:
        bias.add_(change[:, columns])
    elif norm is not None:
        mean: Tensor = student.get_submodule(norm).running_mean  # type: ignore[assignment]
        mean.sub_(change[:, columns])
    return True


def _draw(
    layer: nn.Module, inputs: Tensor, lacks: Tensor, *, total: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(N, P, D) patches of `inputs` and (N, P, O) of `lacks` at the same positions."""
    state = generator.get_state()
    u = patches(layer, inputs, total=total, generator=generator)
    if u.shape[1] == lacks.shape[1]:
        return u, lacks
    generator.set_state(state)
    places = torch.rand(lacks.shape[:2], generator=generator).topk(u.shape[1], dim=1).indices.to(lacks.device)
    return u, lacks.gather(1, places[:, :, None].expand(-1, -1, lacks.shape[2]))


def _lacks(
    student: nn.Module, teacher: nn.Module, place: Place, kept: Tensor, x: Tensor, norm: str | None
) -> Tensor:
    """(N, P, O) what the output of the layer in `student` lacks, before any batch norm."""
    layer = student.get_submodule(place.layer)
    if place.student is None and place.teacher is None:
        (y,), (target,) = (capture(model, x, HookPoint(place.layer)) for model in (student, teacher))
        return positions(layer, target)[..., kept] - positions(layer, y)
    if place.student is None:
        y = _normalised(student, norm, positions(layer, *capture(student, x, HookPoint(place.layer))))
    else:
        y = positions(layer, torch.add(*capture_operands(student, x, place.student)))
    if place.teacher is None:
        (output,) = capture(teacher, x, HookPoint(place.layer))
        target = _normalised(teacher, norm, positions(layer, output))
    else:
        target = positions(layer, torch.add(*capture_operands(teacher, x, place.teacher)))
    difference = target[..., kept] - y
    gain = norm_gain(student, norm, like=y[0, 0])
    usable = gain.abs() > _LEAST_GAIN * gain.abs().max()
    return difference * torch.where(usable, 1 / torch.where(usable, gain, 1.0), 0.0)


def _normalised(model: nn.Module, norm: str | None, y: Tensor) -> Tensor:
    """y (N, P, O) after the batch norm `norm`, and before an activation that its module may include."""
    if norm is None:
        return y
    module = model.get_submodule(norm)
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: S101 - what the structure calls a norm
    normalised = F.batch_norm(y.flatten(0, 1), module.running_mean, module.running_var, module.weight, module.bias,
                              eps=module.eps)
    return normalised.view(y.shape)
