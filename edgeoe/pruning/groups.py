"""Groups of coupled channels: what pruning removes together, and which of it the user wants pruned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch

import torch

from edgeoe.pruning.slots import SizeAttribute, Slot

__all__ = [
    "EXCLUDED",
    "FIRST_STAYS",
    "NOT_INCLUDED",
    "ChannelIndices",
    "Group",
    "crossed",
    "narrow_groups",
    "random_units",
]

FIRST_STAYS = "the first layer stays as it is unless --include names it"
NOT_INCLUDED = "--include does not name it"
EXCLUDED = "--exclude names it"

ChannelIndices = Mapping[str, tuple[tuple[int, ...], ...]]  # layer -> for each unit of a group, its channels there


@dataclass(frozen=True, slots=True)
class Group:
    """Coupled channels, in units that can be pruned independently of each other.

    A unit is the smallest prunable unit: one channel of each layer, or several (the channels of an attention head, of
    a group of a grouped convolution).

    name: the first layer that produces the channels, with a number where it produces several groups.
    order: units in the order in which they are pruned, least L1 norm first.
    refused: why the group can't be pruned; empty if it can.
    producers: layers that output the channels, and which of their outputs belong to each unit.
    consumers: layers that take the channels as inputs, and which of their inputs belong to each unit.
    slots: every tensor axis that holds the channels, and which indices belong to each unit.
    attributes: module attributes that count the channels.
    outputs, inputs: those of `slots` along which layers output the channels, and take them.
    crossing: whether each unit takes a share of every unit of other groups: a dimension of every head.
    summed: whether outputs of several layers are added up in the channels: a residual stream.
    scaled: indices of slots that are scaled by the root of the share of units that remains, since what they compute is
        divided by the root of the number of units (the dimensions of attention).
    norms: L1 norms in the order of `order`, as shares of their mean.
    splits: lines of the teacher's code that split the channels or take a slice of them.
    sensitivity: error that each further unit of `order` adds when it is pruned; empty if it was not measured.
    """

    name: str
    order: tuple[int, ...]
    refused: str = ""
    producers: ChannelIndices = field(default_factory=dict)
    consumers: ChannelIndices = field(default_factory=dict)
    slots: Mapping[Slot, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    attributes: tuple[SizeAttribute, ...] = ()
    outputs: tuple[Slot, ...] = ()
    inputs: tuple[Slot, ...] = ()
    crossing: bool = False
    summed: bool = False
    scaled: Mapping[Slot, tuple[int, ...]] = field(default_factory=dict)
    norms: tuple[float, ...] = ()
    splits: tuple[str, ...] = ()
    sensitivity: tuple[float, ...] = ()

    def shares_channels(self, other: Group) -> bool:
        """Whether both hold some of the same channels, in different units."""
        return any(
            not {index for row in rows for index in row}.isdisjoint(index for row in other.slots[slot] for index in row)
            for slot, rows in self.slots.items()
            if slot in other.slots
        )


def crossed(groups: Iterable[Group]) -> set[str]:
    """Names of those of `groups` that another one crosses, and of those that cross them.

    A layer that loses p of the units of both keeps (1 - p)^2 of its channels.
    """
    groups = list(groups)
    across = [group for group in groups if group.crossing]
    pairs = [(one, other) for one in across for other in groups if not other.crossing and one.shares_channels(other)]
    return {group.name for pair in pairs for group in pair}


def narrow_groups(groups: Iterable[Group], *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Group]:
    """`groups`, with those refused that the user does not want pruned.

    include: globs over the names of producers; empty takes all but the groups of the first layer, unless that writes
        into a residual stream.
    exclude: globs over the names of producers, stronger than `include`.
    """
    narrowed, first = [], None
    for group in groups:
        names = list(group.producers) or [group.name]
        first = first or group.name
        reason = ""
        if include and not any(fnmatch(name, glob) for name in names for glob in include):
            reason = NOT_INCLUDED
        elif not include and first in names and not group.summed:
            reason = FIRST_STAYS
        if any(fnmatch(name, glob) for name in names for glob in exclude):
            reason = EXCLUDED
        narrowed.append(replace(group, refused=reason) if reason and not group.refused else group)
    return narrowed


def random_units(groups: Iterable[Group], generator: torch.Generator) -> dict[str, tuple[int, ...]]:
    """{group: some of its units, from a quarter to half of them}."""
    removed = {}
    for group in groups:
        least, most = (max(1, len(group.order) // part) for part in (4, 2))
        count = int(torch.randint(least, most + 1, (), generator=generator))
        removed[group.name] = tuple(torch.randperm(len(group.order), generator=generator)[:count].tolist())
    return removed
