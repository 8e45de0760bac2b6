"""The cut that methods which prune channels share."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from edgeoe.errors import PruningError
from edgeoe.methods import Bench
from edgeoe.models.reconstruction import measure_sensitivity
from edgeoe.models.structure import read_structure
from edgeoe.pruning.allocation import is_met
from edgeoe.pruning.groups import EXCLUDED, FIRST_STAYS, NOT_INCLUDED, Group, narrow_groups
from edgeoe.pruning.names import by_reason, shortened
from edgeoe.pruning.prune import Pruned, prune_channels
from edgeoe.pruning.verify import prunable_groups
from edgeoe.settings import CompressSettings, Goal

__all__ = ["cut_channels", "find_groups", "note_missed", "prune"]

_MEASURED = {"macs": "MACs", "params": "parameters", "blocks": "blocks that can be dropped"}
_CLASSIFIES = "classifies them, and stays as it is"
_log = logging.getLogger(__name__)


def cut_channels(
    teacher: nn.Module, workbench: Bench, settings: CompressSettings, *, protect: str | None = None
) -> Pruned:
    """A copy of `teacher` without its channels of least L1 norm, to the share that `settings` ask for.

    protect: a layer whose inputs all stay. How many channels each group loses follows `settings.widths`.
    """
    return prune(teacher, workbench, settings, find_groups(teacher, workbench, settings, protect=protect))


def prune(teacher: nn.Module, workbench: Bench, settings: CompressSettings, groups: tuple[Group, ...]) -> Pruned:
    """`teacher` without the channels of `groups` that are pruned first, to the share that `settings` ask for.

    Widths stay at multiples of what the targets compute fast, or of what `settings` name. Where the share can't be met
    within 2 %, the nearest student has a note of that, and of what would come nearer.
    Raises PruningError if nothing can be pruned, or the share is one of blocks.
    """
    goal, of = settings.goal, settings.goal.of
    if of == "blocks":
        raise PruningError(f"--keep-blocks needs a method that drops blocks: practise. Got --method {settings.method}.")
    multiple = settings.channel_multiple or workbench.channel_multiple
    below = settings.channel_multiple is None

    def cut(groups: tuple[Group, ...], multiple: int, below: bool = False, keep: float = goal.share) -> Pruned:
        return prune_channels(
            teacher,
            shape=workbench.shape,
            keep=keep,
            of=of,
            channel_multiple=multiple,
            below_multiple=below,
            compete=settings.widths == "global",
            groups=groups,
        )

    pruned = cut(groups, multiple, below)
    kept = pruned.kept(of)
    if is_met(kept, goal.share):
        return pruned
    ways = [(option, cut(freed, multiple, below).kept(of)) for option, freed in _freed(groups)]
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
    return replace(pruned, note=note_missed(goal, kept, advice))


def _halves(multiple: int) -> Iterator[int]:
    while multiple > 1:
        multiple //= 2
        yield multiple


def _freed(groups: tuple[Group, ...]) -> Iterator[tuple[str, tuple[Group, ...]]]:
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


def note_missed(goal: Goal, kept: float, advice: str) -> str:
    """The note that `goal` is missed by more than 2 %; it is logged too, as hours of training may follow."""
    note = f"{goal} can't be met within 2 %: the nearest student keeps {kept:.3g} of the {_MEASURED[goal.of]}. {advice}"
    _log.warning("%s", note)
    return note


def find_groups(
    teacher: nn.Module, workbench: Bench, settings: CompressSettings, *, protect: str | None = None
) -> tuple[Group, ...]:
    """The groups that may be pruned, ranked; those that make what layer `protect` reads are refused."""
    found = prunable_groups(teacher, shape=workbench.shape, progress=workbench.progress)
    groups = tuple(
        replace(group, refused=f"{protect} {_CLASSIFIES}")
        if protect in group.consumers and not group.refused
        else group
        for group in narrow_groups(found, include=settings.include, exclude=settings.exclude)
    )
    if settings.widths != "measured" or all(group.refused for group in groups):
        return groups
    eyes = copy.deepcopy(teacher).to(workbench.device)
    structure = read_structure(eyes, workbench.shape)
    return tuple(measure_sensitivity(eyes, groups, structure, workbench.rows(), progress=workbench.progress))
