"""Whole residual blocks are dropped: those first that are most recoverable for the latency that they save."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgeoe.errors import PruningError, TrainingError
from edgeoe.methods import Bench, TrainingTask
from edgeoe.methods.cuts.goal import missed_note
from edgeoe.methods.options import BlockOptions
from edgeoe.methods.recoveries.features import feature_distance
from edgeoe.models.observation import capture
from edgeoe.models.reconstruction import Rows, sees_all
from edgeoe.models.structure import Block, Structure, blocks_by_kind, read_structure
from edgeoe.pruning.allocation import is_met
from edgeoe.pruning.prune import Pruned, drop_blocks
from edgeoe.settings import CompressSettings

__all__ = ["Adaptor", "Blocks", "add_adaptors", "latency_saved"]

RECOVERY_LR = 0.02  # as in the paper, which takes 2,000 steps of 64 images for each block


class Adaptor(nn.Module):
    """1x1 convolutions around a layer, as factors of its weight: W -> A W B.

    Both start as the identity. To compute with A W B is to put a 1x1 convolution B before the layer and A after
    it; as they are linear, leaving them merged costs nothing.
    """

    def __init__(self, layer: nn.Module, *, before: bool, after: bool) -> None:
        super().__init__()
        weight: Tensor = layer.weight  # type: ignore[assignment]
        self.before = nn.Parameter(torch.eye(weight.shape[1])) if before else None
        self.after = nn.Parameter(torch.eye(weight.shape[0])) if after else None

    def forward(self, weight: Tensor) -> Tensor:
        if self.after is not None:
            weight = torch.einsum("pq,qi...->pi...", self.after, weight)
        if self.before is not None:
            weight = torch.einsum("oi...,ij->oj...", weight, self.before)
        return weight


def add_adaptors(model: nn.Module, block: Block) -> int:
    """Put adaptors, in place, after the layers that wrote what `block` read and before those that read what it
    wrote. Returns how many layers have them."""
    names = [n for n in dict.fromkeys((*block.producers, *block.consumers)) if sees_all(model.get_submodule(n))]
    for name in names:
        layer = model.get_submodule(name)
        adaptor = Adaptor(layer, before=name in block.consumers, after=name in block.producers)
        parametrize.register_parametrization(layer, "weight", adaptor)
    return len(names)


class Blocks:
    """The cut of PRACTISE (Wang and Wu, "Practical Network Acceleration with Tiny Sets", CVPR 2023).

    The recoverability of a block is the error of the features that remains once it is dropped and 1x1 adaptors around
    it alone have been trained. Blocks are dropped in the order of recoverability by latency saved, measured on the
    target, until the MACs asked for are reached as nearly as whole blocks allow.
    """

    Options = BlockOptions
    measures_latency = True

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings
        self.recovery_steps = settings.options_for(BlockOptions).recovery_steps

    def prune(self, teacher: nn.Module, bench: Bench) -> Pruned:
        structure = read_structure(teacher, bench.shape)
        if not structure.blocks:
            raise PruningError(
                "practise drops residual blocks, and this teacher has none that could hand on what it is given. "
                "Use a method that prunes channels: kd, fskd, cd, mir."
            )
        saved_ms = latency_saved(teacher, structure.blocks, bench)
        errors = self._errors_without(teacher, structure, bench)
        ranked = sorted(structure.blocks, key=lambda block: errors[block.name] / max(saved_ms[block.name], 1e-9))
        return self._drop(teacher, ranked, bench.shape)

    def _errors_without(self, teacher: nn.Module, structure: Structure, bench: Bench) -> dict[str, float]:
        """Mean squared error of the features without each block, adaptors trained."""
        rows = bench.rows()
        reference = copy.deepcopy(teacher).to(bench.device)
        expected = [_features(reference, x, structure) for x, _ in rows]
        errors = {}
        with bench.progress("Trying without each block", len(structure.blocks)) as advance:
            for block in structure.blocks:

                def error(block: Block = block) -> float:
                    student = self._recovered(teacher, block, structure, bench)
                    return math.inf if student is None else _error(student.to(bench.device), expected, rows, structure)

                errors[block.name] = bench.work.kept(f"error without {block.name}", error)
                advance()
        return errors

    def _recovered(self, teacher: nn.Module, block: Block, structure: Structure, bench: Bench) -> nn.Module | None:
        """The teacher without `block`, adaptors trained; None if training diverges: such a block is dropped last."""
        student = drop_blocks(teacher, [block.name], shape=bench.shape).model
        adapted = add_adaptors(student, block)
        task = TrainingTask(
            name=f"Recovering {block.name}",
            distance=feature_distance,
            watch=(structure.features,),
            lr=RECOVERY_LR,
            max_steps=self.recovery_steps,
            trains=lambda name: name.endswith((".before", ".after")),
            batch_statistics=False,
            early_stop=False,
        )
        try:
            if adapted and self.recovery_steps:
                bench.fit(student, task)
        except TrainingError:
            return None
        return student

    def _drop(self, teacher: nn.Module, ranked: Sequence[Block], shape: tuple[int, int, int]) -> Pruned:
        goal = self.settings.goal
        kept = [1.0]
        for count in range(1, len(ranked) + 1):
            student = drop_blocks(teacher, [block.name for block in ranked[:count]], shape=shape)
            shares = {"macs": student.macs_kept, "params": student.params_kept, "blocks": 1 - count / len(ranked)}
            kept.append(shares[goal.of])
            if kept[-1] <= goal.share:
                break
        if goal.share < 1:  # a student is smaller than its teacher
            kept[0] = math.inf
        nearest = min(range(len(kept)), key=lambda count: abs(kept[count] - goal.share))
        pruned = drop_blocks(teacher, [block.name for block in ranked[:nearest]], shape=shape)
        if is_met(kept[nearest], goal.share):
            return pruned
        advice = f"It drops {nearest} of the {len(ranked)} blocks that can be dropped."
        if goal.of != "blocks":
            advice += " Methods that prune channels take smaller steps: kd, fskd, cd, mir."
        return replace(pruned, note=missed_note(goal, kept[nearest], advice))


def latency_saved(teacher: nn.Module, blocks: Sequence[Block], bench: Bench) -> Mapping[str, float]:
    """By how many milliseconds the teacher is faster without each of `blocks`.

    Blocks of the same layers and input shape save the same, so all of a kind are dropped at once and share the
    saving, which then stands far above the noise.
    """
    kinds = [[block.name for block in alike] for alike in blocks_by_kind(teacher, blocks)]
    without = [drop_blocks(teacher, names, shape=bench.shape).model for names in kinds]
    whole, *less = bench.latency_ms([teacher, *without])
    return {name: (whole - ms) / len(names) for names, ms in zip(kinds, less, strict=True) for name in names}


@torch.no_grad()
def _features(model: nn.Module, x: Tensor, structure: Structure) -> Tensor:
    return capture(model, x, structure.features)[0]


def _error(student: nn.Module, expected: Sequence[Tensor], rows: Rows, structure: Structure) -> float:
    total = mass = 0.0
    for (x, weight), features in zip(rows, expected, strict=True):
        difference = (_features(student, x, structure) - features).square().flatten(1).mean(1)
        total += float((difference * weight).sum())
        mass += float(weight.sum())
    return total / mass
