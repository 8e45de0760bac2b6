"""Structured pruning of channels and of whole blocks to a share of the teacher's MACs or parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from edgeoe.errors import PruningError, first_line, pass_on_out_of_memory
from edgeoe.progress import Progress, silent
from edgeoe.pruning.allocation import Cut, Share, is_met, nearest_cut, prunable_units
from edgeoe.pruning.arithmetic import Arithmetic
from edgeoe.pruning.groups import Group
from edgeoe.pruning.macs import counting_macs
from edgeoe.pruning.names import by_reason, shortened
from edgeoe.pruning.removal import without_blocks, without_channels
from edgeoe.pruning.verify import prunable_groups

__all__ = [
    "Measure",
    "Pruned",
    "count_macs",
    "count_params",
    "drop_blocks",
    "drop_channels",
    "prune_channels",
]

Measure = Literal["macs", "params"]


@dataclass(frozen=True, slots=True)
class Pruned:
    """A network that is really smaller, and what was pruned.

    model: the pruned network.
    removed: {group: units that were pruned}.
    groups: all groups of the teacher.
    macs: MACs of the teacher.
    macs_kept, params_kept: shares of the teacher's MACs and parameters.
    dropped: blocks that were dropped.
    note: what the user should know about how the target share was met; empty if nothing.
    """

    model: nn.Module
    removed: dict[str, tuple[int, ...]]
    groups: tuple[Group, ...]
    macs: int
    macs_kept: float
    params_kept: float
    dropped: tuple[str, ...] = ()
    note: str = ""

    def kept(self, of: Measure) -> float:
        """The share of the teacher's MACs or parameters."""
        return self.params_kept if of == "params" else self.macs_kept

    def then(self, second: Pruned) -> Pruned:
        """Both cuts as one of the same teacher.

        second: a cut of `self.model`.
        Raises ValueError if both removed channels: the second one counts those that the first one has left.
        """
        if self.removed and second.removed:
            raise ValueError("two cuts in a row can't both remove channels: remove them at once.")
        return Pruned(
            model=second.model,
            removed=self.removed | second.removed,
            groups=second.groups or self.groups,
            macs=self.macs,
            macs_kept=self.macs_kept * second.macs_kept,
            params_kept=self.params_kept * second.params_kept,
            dropped=self.dropped + second.dropped,
            note=" ".join(filter(None, (self.note, second.note))),
        )


@torch.no_grad()
def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions, matrix products and attention for one image (C, H, W)."""
    device = next(model.parameters()).device
    with counting_macs() as counter:
        model(torch.zeros(1, *shape, device=device))
    return int(counter.get_total_flops()) // 2


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def prune_channels(
    teacher: nn.Module,
    *,
    shape: tuple[int, int, int],
    keep: float,
    of: Measure = "macs",
    channel_multiple: int = 1,
    below_multiple: bool = False,
    compete: bool = False,
    groups: Iterable[Group] | None = None,
    progress: Progress = silent,
) -> Pruned:
    """A copy of `teacher` that keeps nearest to the share `keep` of its MACs or parameters.

    With sensitivities, units are pruned that add the least error for the MACs (or parameters) they save. Without, every
    group loses the same share of its channels. A group keeps at least a sixteenth of its channels, and one step. Below
    a share of 1, at least one step is pruned.

    shape: (C, H, W) of an image.
    keep: the share to keep, above 0.
    of: what it is a share of.
    channel_multiple: widths of pruned layers stay multiples of it.
    below_multiple: where the share can't be met within 2 % that way, a group of one multiple or less may be halved.
    compete: without sensitivities, prune the units of least relative norm, whichever group they belong to.
    groups: from `prunable_groups`, perhaps narrowed or ranked; None traces them.
    Raises PruningError if nothing can be pruned.
    """
    groups = tuple(prunable_groups(teacher, shape=shape, progress=progress) if groups is None else groups)
    if keep >= 1:
        return drop_channels(teacher, groups, {}, shape=shape)

    def nearest(share: Share) -> Cut:
        cuts: list[Cut] = []
        for below in (False, True) if below_multiple else (False,):
            units = prunable_units(groups, multiple=channel_multiple, share=share, compete=compete, below=below)
            cuts += [nearest_cut(units, keep=keep, share=share)] if units else []
            if cuts and is_met(cuts[-1].kept, keep):
                break
        if not cuts:
            raise PruningError(_nothing_to_prune(groups, channel_multiple))
        return min(cuts, key=lambda cut: abs(cut.kept - keep))

    arithmetic = Arithmetic(teacher, shape, groups)
    if calculated := _calculated_share(arithmetic, of):
        cut = nearest(calculated)
        pruned = _without(cut.removed, teacher, groups, shape=shape, whole=arithmetic)
        if pruned.kept(of) == cut.kept:
            return pruned
    counted = _counted_share(teacher, groups, shape=shape, whole=arithmetic, of=of)
    return _without(nearest(counted).removed, teacher, groups, shape=shape, whole=arithmetic)


def _calculated_share(whole: Arithmetic, of: Measure) -> Share | None:
    """The share that is kept, by arithmetic; None where that is not known."""
    if of == "params":
        return (lambda removed: whole.params_without(removed) / whole.params) if whole.params_known else None
    return (lambda removed: whole.macs_without(removed) / whole.macs) if whole.macs_known else None


def _counted_share(
    teacher: nn.Module, groups: tuple[Group, ...], *, shape: tuple[int, int, int], whole: Arithmetic, of: Measure
) -> Share:
    """The share that is kept, counted in a pruned network each time."""

    def share(removed: Mapping[str, tuple[int, ...]]) -> float:
        if of == "params":
            return count_params(without_channels(teacher, groups, removed)) / whole.params
        return _without(removed, teacher, groups, shape=shape, whole=whole).macs_kept

    return share


def _without(
    removed: Mapping[str, tuple[int, ...]],
    teacher: nn.Module,
    groups: tuple[Group, ...],
    *,
    shape: tuple[int, int, int],
    whole: Arithmetic,
) -> Pruned:
    """`teacher` without `removed`. Raises PruningError if that network fails."""
    try:
        student = without_channels(teacher, groups, removed)
        pruned = _pruned(student, shape=shape, macs=whole.macs, params=whole.params)
    except Exception as reason:
        pass_on_out_of_memory(reason)
        raise PruningError(
            f"the pruned network fails: {type(reason).__name__}: {first_line(reason)}. Narrow the cut with --exclude."
        ) from reason
    return replace(pruned, removed=_sorted(removed), groups=groups)


def _nothing_to_prune(groups: Iterable[Group], channel_multiple: int) -> str:
    narrow = f"too few channels for --channel-multiple {channel_multiple}"
    reasons = by_reason({group.name: group.refused or narrow for group in groups})
    explained = "; ".join(f"{shortened(names)}: {reason}" for reason, names in reasons.items())
    return f"no channel of this teacher can be pruned. {explained or 'No convolution or linear layer was found'}."


def drop_channels(
    teacher: nn.Module,
    groups: tuple[Group, ...],
    removed: Mapping[str, tuple[int, ...]],
    *,
    shape: tuple[int, int, int],
    start: nn.Module | None = None,
) -> Pruned:
    """`teacher` without some channels.

    groups: all groups of `teacher`.
    removed: {group: units to remove}.
    shape: (C, H, W) of an image.
    start: a network of the teacher's architecture whose weights the student gets instead; None takes the teacher's.
    """
    student = without_channels(teacher if start is None else start, groups, removed)
    pruned = _pruned(student, shape=shape, macs=count_macs(teacher, shape), params=count_params(teacher))
    return replace(pruned, removed=_sorted(removed), groups=groups)


def drop_blocks(teacher: nn.Module, blocks: Iterable[str], *, shape: tuple[int, int, int]) -> Pruned:
    """A copy of `teacher` in which `blocks` pass their input on unchanged."""
    dropped = tuple(blocks)
    student = without_blocks(teacher, dropped)
    pruned = _pruned(student, shape=shape, macs=count_macs(teacher, shape), params=count_params(teacher))
    return replace(pruned, dropped=dropped)


def _pruned(student: nn.Module, *, shape: tuple[int, int, int], macs: int, params: int) -> Pruned:
    """The record of `student`, without what was removed.

    macs, params: of the teacher.
    """
    return Pruned(
        model=student,
        removed={},
        groups=(),
        macs=macs,
        macs_kept=count_macs(student, shape) / macs,
        params_kept=count_params(student) / params,
    )


def _sorted(removed: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(sorted(units)) for name, units in removed.items()}
