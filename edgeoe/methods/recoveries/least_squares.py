"""A 1x1 convolution after each pruned layer is solved by least squares and merged into it. No gradient."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeoe.methods import Bench, Fit
from edgeoe.models.observation import HookPoint, ResidualSum, capture, capture_sum
from edgeoe.models.reconstruction import Rows, draw_places, norm_gain, positions, ridge, sees_all, take
from edgeoe.models.repair import kept_outputs
from edgeoe.models.structure import Structure, read_structure
from edgeoe.pruning.prune import Pruned
from edgeoe.run.saved_work import State
from edgeoe.settings import CompressSettings

__all__ = ["LeastSquares", "solve_layer"]

_KEY = "solved layers"


class LeastSquares:
    """Few Sample Knowledge Distillation (Li, Li, Liu and Zhang, CVPR 2020).

    Layers whose inputs were pruned are taken in order. Q and a shift minimise the squared error of Q z + q
    against what the teacher has there, z being the layer's output in the student as solved so far; then Q goes
    into the layer's weights and q into its bias or the batch norm behind it. Where the output goes straight into
    a residual sum, the target is the teacher's sum less the student's other operand, so that what earlier layers
    got wrong is put right.
    """

    Options = None

    def __init__(self, settings: CompressSettings) -> None: ...

    @torch.no_grad()
    def recover(self, teacher: nn.Module, pruned: Pruned, bench: Bench) -> Fit:
        structure = read_structure(teacher, bench.shape)
        reference = copy.deepcopy(teacher).to(bench.device)
        student = pruned.model.to(bench.device)
        sums = structure.sums
        if pruned.dropped:  # fewer layers and sums than the teacher has
            structure = read_structure(student, bench.shape)
        narrowed = {name for group in pruned.groups if group.name in pruned.removed for name in group.consumers}
        layers = [n for n in structure.layers if n in narrowed and sees_all(student.get_submodule(n))]
        rows = bench.rows()
        solved = 0
        if (state := bench.work.take("training", _KEY)) is not None:
            solved = state.facts["solved"]
            student.load_state_dict(state.tensors)
        with bench.progress("Solving layers", len(layers)) as advance:
            for number, name in enumerate(layers):
                if number >= solved:
                    kept = kept_outputs(teacher, pruned, name).to(bench.device)
                    solve_layer(student, reference, name, kept, structure, rows, sums=sums)
                    if bench.work.is_due:
                        bench.work.save("training", State(_KEY, {"solved": number + 1}, student.state_dict()))
                advance()
        student.to("cpu").eval()
        return Fit()


def solve_layer(
    student: nn.Module,
    teacher: nn.Module,
    name: str,
    kept: Tensor,
    structure: Structure,
    rows: Rows,
    *,
    sums: Mapping[str, ResidualSum] | None = None,
) -> None:
    """Put the best 1x1 convolution after layer `name` of `student`, in place.

    kept: the teacher's outputs of that layer that the student has.
    structure: of the student.
    rows: images to solve with, and their weights.
    sums: the teacher's residual sums by layer; None where they are those of the student.
    """
    layer = student.get_submodule(name)
    norm = structure.norms.get(name)
    residual = structure.sums.get(name), (structure.sums if sums is None else sums).get(name)
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    shifts = bias is not None or norm is not None
    generator = torch.Generator().manual_seed(0)
    total, mass = sum(len(x) for x, _ in rows), sum(float(weight.sum()) for _, weight in rows)
    moments = cross = torch.zeros(())
    for x, weight in rows:
        z, target = _output_and_target(student, teacher, name, kept, residual, x)
        places = draw_places(*z.shape[:2], total=total, generator=generator)
        z, target = take(z, places), take(target, places)
        share = (weight / (mass * z.shape[1])).sqrt().repeat_interleave(z.shape[1])[:, None]
        z, target = z.flatten(0, 1), target.flatten(0, 1)
        if shifts:
            z = torch.cat([z, torch.ones_like(z[:, :1])], 1)
        moments = moments + (z * share).T @ (z * share)
        cross = cross + (z * share).T @ (target * share)
    outputs = len(kept)
    prior = torch.eye(outputs, len(moments), device=moments.device)
    solved = ridge(moments, cross, prior=prior)
    q = solved[:, :outputs]
    weights: Tensor = layer.weight  # type: ignore[assignment]
    weights.copy_((q @ weights.flatten(1)).view_as(weights))
    if bias is not None:
        bias.copy_(q @ bias + solved[:, outputs])
    elif norm is not None:
        mean: Tensor = student.get_submodule(norm).running_mean  # type: ignore[assignment]
        mean.sub_(solved[:, outputs])


def _output_and_target(
    student: nn.Module,
    teacher: nn.Module,
    name: str,
    kept: Tensor,
    residual: tuple[ResidualSum | None, ResidualSum | None],
    x: Tensor,
) -> tuple[Tensor, Tensor]:
    """(N, P, O) what layer `name` of the student puts out, and what it should, so that its residual sum, if it
    goes into one, becomes the teacher's.

    residual: that sum in the student and in the teacher.
    """
    layer, (place, teacher_place) = student.get_submodule(name), residual
    if place is None or teacher_place is None:
        (y,), (target,) = capture(student, x, HookPoint(name)), capture(teacher, x, HookPoint(name))
        return positions(layer, y), positions(layer, target)[..., kept]
    y, *operands = (positions(layer, t) for t in capture_sum(student, x, name, place))
    target, *expected = (positions(layer, t)[..., kept] for t in capture_sum(teacher, x, name, teacher_place))
    lacks = expected[1 - teacher_place.operand] - operands[1 - place.operand]
    gain = norm_gain(student, place.norm, like=y[0, 0])
    usable = gain.abs() > 1e-3 * gain.abs().max()
    return y, target + lacks * torch.where(usable, 1 / torch.where(usable, gain, 1.0), 0.0)
