"""The cut that methods which prune channels share."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from edgeoe.errors import PruningError
from edgeoe.methods import Bench
from edgeoe.models.groups import Group, narrow_groups
from edgeoe.models.prunable import prunable_groups
from edgeoe.models.pruning import Pruned, prune_channels
from edgeoe.models.reconstruction import measure_costs
from edgeoe.models.structure import read_structure
from edgeoe.settings import CompressSettings

__all__ = ["cut_channels", "find_groups", "prune"]


def cut_channels(
    teacher: nn.Module, workbench: Bench, settings: CompressSettings, *, protect: str | None = None
) -> Pruned:
    """A copy of `teacher` without its channels of least L1 norm, to the share that `settings` ask for.

    protect: a layer whose inputs all stay. How many channels each group loses follows `settings.widths`.
    """
    return prune(teacher, workbench, settings, find_groups(teacher, workbench, settings, protect=protect))


def prune(teacher: nn.Module, workbench: Bench, settings: CompressSettings, groups: tuple[Group, ...]) -> Pruned:
    """`teacher` without the channels of `groups` that go first, to the share that `settings` ask for.

    Raises PruningError if that share is one of blocks.
    """
    goal = settings.goal
    if goal.of == "blocks":
        raise PruningError(f"--keep-blocks needs a method that drops blocks: practise. Got --method {settings.method}.")
    return prune_channels(
        teacher,
        shape=workbench.shape,
        keep=goal.share,
        of=goal.of,
        channel_multiple=settings.channel_multiple,
        compete=settings.widths == "global",
        groups=groups,
    )


def find_groups(
    teacher: nn.Module, workbench: Bench, settings: CompressSettings, *, protect: str | None = None
) -> tuple[Group, ...]:
    """The groups that may be pruned, ranked; those that make what layer `protect` reads are refused."""
    found = prunable_groups(teacher, shape=workbench.shape, progress=workbench.progress)
    groups = tuple(
        replace(group, refused=f"{protect} classifies them, and stays as it is")
        if protect in group.readers and not group.refused
        else group
        for group in narrow_groups(found, include=settings.include, exclude=settings.exclude)
    )
    if settings.widths != "measured" or all(group.refused for group in groups):
        return groups
    eyes = copy.deepcopy(teacher).to(workbench.device)
    structure = read_structure(eyes, workbench.shape)
    return tuple(measure_costs(eyes, groups, structure, workbench.rows(), progress=workbench.progress))
