"""Channels of least L1 norm are pruned, to the share that is asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from edgeoe.errors import PruningError
from edgeoe.methods import Bench
from edgeoe.methods.cuts.goal import missed_note
from edgeoe.methods.options import ChannelOptions
from edgeoe.models.sensitivity import measure_sensitivity
from edgeoe.models.structure import read_structure
from edgeoe.progress import Progress, silent
from edgeoe.pruning.allocation import is_met
from edgeoe.pruning.groups import EXCLUDED, FIRST_STAYS, NOT_INCLUDED, Group, narrow_groups
from edgeoe.pruning.names import by_reason, shortened
from edgeoe.pruning.prune import Pruned, prune_channels
from edgeoe.pruning.verify import prunable_groups
from edgeoe.settings import CompressSettings

__all__ = ["Channels", "ChannelsBeforeFeatures", "find_groups", "freed_groups", "narrowed_groups", "prune_groups"]

_CLASSIFIES = "classifies them, and stays as it is"


class Channels:
    """Prunes the channels of least L1 norm (Li et al., ICLR 2017)."""

    Options = ChannelOptions
    measures_latency = False

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def prune(self, teacher: nn.Module, bench: Bench) -> Pruned:
        return prune_groups(teacher, bench, self.settings, find_groups(teacher, bench, self.settings))


class ChannelsBeforeFeatures:
    """Prunes the channels of least L1 norm, but none that the head reads: features keep their number."""

    Options = ChannelOptions
    measures_latency = False

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def prune(self, teacher: nn.Module, bench: Bench) -> Pruned:
        head = read_structure(teacher, bench.shape).head
        return prune_groups(teacher, bench, self.settings, find_groups(teacher, bench, self.settings, protect=head))


def prune_groups(teacher: nn.Module, bench: Bench, settings: CompressSettings, groups: tuple[Group, ...]) -> Pruned:
    """`teacher` without the first channels of `groups`, to the share that `settings` ask for.

    Widths stay at multiples of what the targets compute fast, or of what `settings` name. Where the share can't be met
    within 2 %, the nearest student has a note of that, and of what would come nearer.
    Raises PruningError if nothing can be pruned, or the share is one of blocks.
    """
    goal, of = settings.goal, settings.goal.of
    if of == "blocks":
        raise PruningError(f"--keep-blocks needs a method that drops blocks: practise. Got --method {settings.method}.")
    multiple = settings.channel_multiple or bench.channel_multiple
    below = settings.channel_multiple is None
    compete = settings.options_for(ChannelOptions).widths == "global"

    def cut(groups: tuple[Group, ...], multiple: int, below: bool = False, keep: float = goal.share) -> Pruned:
        return prune_channels(
            teacher,
            shape=bench.shape,
            keep=keep,
            of=of,
            channel_multiple=multiple,
            below_multiple=below,
            compete=compete,
            groups=groups,
        )

    pruned = cut(groups, multiple, below)
    kept = pruned.kept(of)
    if is_met(kept, goal.share):
        return pruned
    ways = [(option, cut(freed, multiple, below).kept(of)) for option, freed in freed_groups(groups)]
    for finer in _halves(multiple):
        ways.append((f"--channel-multiple {finer}", cut(groups, finer).kept(of)))
        if is_met(ways[-1][1], goal.share):
            break
    off = abs(kept - goal.share)
    nearer = [(option, share) for option, share in ways if abs(share - goal.share) < off - 0.005 * goal.share]
    if nearer:
        advice = f"Nearer would be {', '.join(f'{option} ({share:.3g})' for option, share in nearer)}."
    elif kept > goal.share and kept <= cut(groups, multiple, below, keep=1e-9).kept(of):
        reasons = by_reason({group.name: group.refused for group in groups if group.refused})
        stays = "".join(f"; {shortened(names)}: {reason}" for reason, names in reasons.items())
        advice = f"Every group keeps a sixteenth of its channels{stays}."
    else:
        advice = "No step that can be pruned comes nearer."
    return replace(pruned, note=missed_note(goal, kept, advice))


def _halves(multiple: int) -> Iterator[int]:
    while multiple > 1:
        multiple //= 2
        yield multiple


def freed_groups(groups: tuple[Group, ...]) -> Iterator[tuple[str, tuple[Group, ...]]]:
    """What a user may ask for instead, and the groups that may then be pruned."""
    for reason, option in (
        (FIRST_STAYS, "--include '*'"),
        (NOT_INCLUDED, "a wider --include"),
        (EXCLUDED, "a narrower --exclude"),
        (_CLASSIFIES, "--method kd"),
    ):
        freed = tuple(replace(group, refused="") if reason in group.refused else group for group in groups)
        if freed != groups:
            yield option, freed


def find_groups(
    teacher: nn.Module, bench: Bench, settings: CompressSettings, *, protect: str | None = None
) -> tuple[Group, ...]:
    """The groups that may be pruned, ranked.

    protect: as for `narrowed_groups`.
    """
    groups = narrowed_groups(teacher, settings, shape=bench.shape, protect=protect, progress=bench.progress)
    by_sensitivity = settings.options_for(ChannelOptions).widths == "sensitivity"
    if not by_sensitivity or all(group.refused for group in groups):
        return groups
    probe = copy.deepcopy(teacher).to(bench.device)
    structure = read_structure(probe, bench.shape)
    return tuple(measure_sensitivity(probe, groups, structure, bench.rows(), work=bench.work, progress=bench.progress))


def narrowed_groups(
    teacher: nn.Module,
    settings: CompressSettings,
    *,
    shape: tuple[int, int, int],
    protect: str | None = None,
    progress: Progress = silent,
) -> tuple[Group, ...]:
    """All groups of `teacher`, those refused that may not be pruned.

    shape: (C, H, W) of an image.
    protect: a layer whose inputs all stay: the groups that make them are refused.
    """
    every = prunable_groups(teacher, shape=shape, progress=progress)
    return tuple(
        _refused(group, f"{protect} {_CLASSIFIES}") if protect in group.consumers else group
        for group in narrow_groups(every, include=settings.include, exclude=settings.exclude)
    )


def _refused(group: Group, reason: str) -> Group:
    """`group` with that reason, unless it is refused for another one."""
    return group if group.refused else replace(group, refused=reason)
