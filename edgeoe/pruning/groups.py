"""Groups of channels that go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch

from edgeoe.pruning.trace import Fix, Slot

__all__ = ["EXCLUDED", "FIRST_STAYS", "NOT_INCLUDED", "Group", "Spread", "narrow_groups"]

FIRST_STAYS = "the first layer stays as it is unless --include names it"
NOT_INCLUDED = "--include does not name it"
EXCLUDED = "--exclude names it"

Spread = Mapping[str, tuple[tuple[int, ...], ...]]  # layer -> for each channel of a group, its indices in that layer


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that are alike, each with all that goes with it: named by the first layer that makes them.

    A channel of a group may be several in a layer: a head of attention, a group of a grouped convolution.
    order: channel indices in the order in which they should go, least L1 norm first.
    refused: why they must stay; empty if they may go. producers: layers that make them, and where in their
    outputs; consumers: layers that take them in, and where. slots: every tensor that holds them, and where.
    fixes: attributes that count them. norms: L1 norms in that order, as shares of their mean. cost: error that each
    further channel of `order` adds when it goes; empty if nobody measured it.
    """

    name: str
    order: tuple[int, ...]
    refused: str = ""
    producers: Spread = field(default_factory=dict)
    consumers: Spread = field(default_factory=dict)
    slots: Mapping[Slot, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    fixes: tuple[Fix, ...] = ()
    norms: tuple[float, ...] = ()
    cost: tuple[float, ...] = ()


def narrow_groups(groups: Iterable[Group], *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Group]:
    """`groups`, those refused that the user does not want pruned.

    include, exclude: globs over the names of the layers that make a group's channels. Without `include`, what the
    first layer makes stays.
    """
    narrowed, first = [], None
    for group in groups:
        names = list(group.producers) or [group.name]
        first = first or group.name
        reason = ""
        if include and not any(fnmatch(name, glob) for name in names for glob in include):
            reason = NOT_INCLUDED
        elif not include and first in names:
            reason = FIRST_STAYS
        if any(fnmatch(name, glob) for name in names for glob in exclude):
            reason = EXCLUDED
        narrowed.append(replace(group, refused=reason) if reason and not group.refused else group)
    return narrowed
