"""The cut that methods which prune channels share."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from edgeoe.methods import Bench
from edgeoe.models.pruning import Group, Pruned, prunable_groups, prune_channels
from edgeoe.models.reconstruction import measure_costs
from edgeoe.models.structure import read_structure
from edgeoe.settings import CompressSettings

__all__ = ["cut_channels", "find_groups"]


def cut_channels(
    teacher: nn.Module, workbench: Bench, settings: CompressSettings, *, protect: str | None = None
) -> Pruned:
    """A copy of `teacher` without its channels of least L1 norm, to the share of MACs that `settings` ask for.

    protect: a layer whose inputs all stay. How many channels each group loses follows `settings.widths`.
    """
    return prune_channels(
        teacher,
        shape=workbench.shape,
        keep_macs=settings.keep_macs,
        channel_multiple=settings.channel_multiple,
        groups=find_groups(teacher, workbench, settings, protect=protect),
    )


def find_groups(
    teacher: nn.Module, workbench: Bench, settings: CompressSettings, *, protect: str | None = None
) -> tuple[Group, ...]:
    """The groups that may be pruned, ranked; those that make what layer `protect` reads are refused."""
    groups = tuple(
        replace(group, refused=f"{protect} classifies them, and stays as it is")
        if protect in group.readers and not group.refused
        else group
        for group in prunable_groups(teacher, shape=workbench.shape, progress=workbench.progress)
    )
    if settings.widths == "uniform":
        return groups
    eyes = copy.deepcopy(teacher).to(workbench.device)
    structure = read_structure(eyes, workbench.shape)
    return tuple(measure_costs(eyes, groups, structure, workbench.rows(), progress=workbench.progress))
