"""Kinds: groups, or blocks, so alike that pruning any of them saves the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from torch import nn

from edgeoe.pruning.groups import Group

__all__ = ["by_kind", "group_kind", "module_kind"]

T = TypeVar("T")


def by_kind(items: Iterable[T], kind: Callable[[T], Hashable]) -> list[list[T]]:
    """`items` in lists of one kind each, in the order in which the kinds first occur."""
    kinds: dict[Hashable, list[T]] = {}
    for item in items:
        kinds.setdefault(kind(item), []).append(item)
    return list(kinds.values())


def group_kind(model: nn.Module, group: Group, macs_of: Mapping[str, int]) -> Hashable:
    """The kind of `group`: its number of units, and the shape and the MACs of everything that holds its channels.

    macs_of: MACs of each module of `model`, by name.
    """
    held: Counter[Hashable] = Counter()
    for slot, rows in group.slots.items():
        tensor = getattr(model.get_submodule(slot.module), slot.tensor)
        held[tensor.shape, slot.axis, len(rows[0]), macs_of.get(slot.module)] += 1
    return len(group.order), frozenset(held.items())


def module_kind(module: nn.Module) -> Hashable:
    """The kind of `module`: the type and the parameter shapes of itself and of everything in it."""
    return tuple((type(part).__name__, tuple(p.shape for p in part.parameters(False))) for part in module.modules())
