"""Structured pruning of channels and of whole blocks, to a share of the teacher's MACs or parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeoe.errors import PruningError, first_line, pass_on_out_of_memory
from edgeoe.models.channels import decomposed
from edgeoe.models.groups import Group
from edgeoe.models.names import by_reason, shortened
from edgeoe.models.prunable import prunable_groups
from edgeoe.models.removal import without_channels
from edgeoe.progress import Progress, silent

__all__ = [
    "Measure",
    "Pruned",
    "count_macs",
    "count_params",
    "drop_blocks",
    "drop_channels",
    "prune_channels",
]

TOLERANCE = 0.02
_FLOOR = 16  # a group keeps at least this part of its channels
_BACK = 4  # units that are taken back to meet a share by others

Measure = Literal["macs", "params"]


@dataclass(frozen=True, slots=True)
class Pruned:
    """A really smaller network and how it came about.

    removed: the channels that each group lost. dropped: blocks that are gone.
    """

    model: nn.Module
    removed: dict[str, tuple[int, ...]]
    groups: tuple[Group, ...]
    macs: int
    macs_kept: float
    params_kept: float
    dropped: tuple[str, ...] = ()


@torch.no_grad()
def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions, matrix products and attention for one image (C, H, W)."""
    device = next(model.parameters()).device
    with decomposed(), FlopCounterMode(display=False) as counter:
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
    compete: bool = False,
    groups: Iterable[Group] | None = None,
    progress: Progress = silent,
) -> Pruned:
    """A copy of `teacher` that keeps the share `keep` of its MACs or parameters, within 2 %.

    groups: `prunable_groups`, possibly ranked anew; None finds them. Where no costs are known, every group loses
    the same share of its channels, or, if the groups `compete`, the channels of least norm beside others of their
    group go wherever they are. Where costs are known, those go whose loss adds the least error for the MACs (or
    parameters) that it saves. All in steps of `channel_multiple`; a group keeps a sixteenth, and at least one step.
    Raises PruningError if nothing can be pruned, or the nearest reachable share is off by more than 2 %.
    """
    count: Callable[[nn.Module], int] = count_params if of == "params" else lambda model: count_macs(model, shape)
    original = count(teacher)
    groups = tuple(prunable_groups(teacher, shape=shape, progress=progress) if groups is None else groups)
    units = sorted(_units(teacher, groups, channel_multiple, count, compete=compete), key=lambda unit: unit[0])
    if keep < 1 and not units:
        narrow = f"too few channels for --channel-multiple {channel_multiple}"
        reasons = by_reason({group.name: group.refused or narrow for group in groups})
        told = "; ".join(f"{shortened(names)}: {reason}" for reason, names in reasons.items())
        raise PruningError(
            f"no channel of this teacher can be pruned. {told or 'No convolution or linear layer was found'}."
        )

    def cut(units: Sequence[_Unit]) -> _Cut:
        removed: dict[str, tuple[int, ...]] = {}
        for _, name, channels in units:
            removed[name] = removed.get(name, ()) + channels
        try:
            return removed, count(without_channels(teacher, groups, removed)) / original
        except Exception as reason:
            pass_on_out_of_memory(reason)
            raise PruningError(
                f"the pruned network fails: {type(reason).__name__}: {first_line(reason)}. "
                "Narrow the cut with --exclude."
            ) from reason

    low, high = 0, len(units)  # the first `low` leave at least `keep`; search the last such number
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cut(units[:middle])[1] >= keep else (low, middle - 1)
    removed, kept = min((cut(units[:end]) for end in {low, min(low + 1, len(units))}), key=lambda c: abs(c[1] - keep))
    if abs(kept - keep) > TOLERANCE * keep:
        filled = (_filled(units, max(0, low - back), keep, cut) for back in range(_BACK))
        removed, kept = min((removed, kept), *filled, key=lambda c: abs(c[1] - keep))
    if abs(kept - keep) > TOLERANCE * keep:
        floor = cut(units)[1]
        raise PruningError(
            f"--keep-{of} {keep} can't be met within 2 %: the nearest is {kept:.4g}, the least {floor:.4g}. "
            f"Ask for one of these, or for finer steps than --channel-multiple {channel_multiple}."
        )
    return drop_channels(teacher, groups, removed, shape=shape)


def drop_channels(
    teacher: nn.Module,
    groups: tuple[Group, ...],
    removed: Mapping[str, tuple[int, ...]],
    *,
    shape: tuple[int, int, int],
    start: nn.Module | None = None,
) -> Pruned:
    """`teacher` without those channels of its groups; with the weights of `start`, of the same shape, if given."""
    student = without_channels(teacher if start is None else start, groups, removed)
    original = count_macs(teacher, shape)
    return Pruned(
        model=student,
        removed={name: tuple(sorted(channels)) for name, channels in removed.items()},
        groups=groups,
        macs=original,
        macs_kept=count_macs(student, shape) / original,
        params_kept=count_params(student) / count_params(teacher),
    )


def drop_blocks(teacher: nn.Module, blocks: Iterable[str], *, shape: tuple[int, int, int]) -> Pruned:
    """A copy of `teacher` in which those blocks hand on what they are given."""
    student, dropped = copy.deepcopy(teacher), tuple(blocks)
    for name in dropped:
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, nn.Identity())
    original = count_macs(teacher, shape)
    return Pruned(
        model=student,
        removed={},
        groups=(),
        macs=original,
        macs_kept=count_macs(student, shape) / original,
        params_kept=count_params(student) / count_params(teacher),
        dropped=dropped,
    )


# What goes first


_Unit = tuple[float, str, tuple[int, ...]]
_Cut = tuple[dict[str, tuple[int, ...]], float]


def _units(
    teacher: nn.Module, groups: tuple[Group, ...], multiple: int, count: Callable[[nn.Module], int], *, compete: bool
) -> Iterator[_Unit]:
    """(rank, group, channels) of every unit that may go, least rank first.

    The rank is the error that it adds for each MAC that it saves, where a group's cost is known; else its norm,
    where groups compete; else the share of its group that is gone once it is.
    """
    whole = count(teacher) if any(group.cost for group in groups) else 0
    for group in groups:
        steps = [] if group.refused else list(_steps(group, multiple))
        if group.cost and steps:
            first = steps[0][1]
            saved = (whole - count(without_channels(teacher, groups, {group.name: first}))) / len(first)
            rank, start = 0.0, 0
            for edge, channels in steps:
                rank = max(rank, sum(group.cost[start:edge]) / len(channels) / max(1.0, saved))
                start = edge
                yield rank, group.name, channels
        elif compete:
            yield from ((group.norms[edge - 1], group.name, channels) for edge, channels in steps)
        else:
            yield from ((edge / len(group.order), group.name, channels) for edge, channels in steps)


def _filled(units: Sequence[_Unit], start: int, keep: float, cut: Callable[[Sequence[_Unit]], _Cut]) -> _Cut:
    """The cut of the first `start` units and those of the next that don't overshoot, till `keep` is met; the very next
    waits."""
    chosen, passed = list(units[:start]), {units[start][1]} if start < len(units) else set()
    removed, kept = cut(chosen)
    for unit in units[start : start + 200]:
        if unit[1] in passed or kept <= keep * (1 + TOLERANCE):
            continue
        tried = cut([*chosen, unit])
        if tried[1] < keep * (1 - TOLERANCE):
            passed.add(unit[1])
        else:
            chosen.append(unit)
            removed, kept = tried
    return removed, kept


def _steps(group: Group, multiple: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(channels gone by then, channels) of each step in which `group` shrinks."""
    width = len(group.order)
    several = {len(rows[0]) for rows in group.writers.values()} or {1}
    multiple = math.lcm(*(multiple // math.gcd(multiple, rows) for rows in several))
    first = width % multiple  # the odd channels go first, so that what stays is a multiple
    last = width - max(multiple, -(-width // _FLOOR))
    start = 0
    for edge in range(first or multiple, last + 1, multiple):
        yield edge, group.order[start:edge]
        start = edge
