"""Sparsity allocation: how many units of each group are pruned so that a share of the network is kept."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgeoe.pruning.groups import Group, crossed

__all__ = ["TOLERANCE", "Cut", "Share", "Unit", "is_met", "nearest_cut", "prunable_units", "width_steps"]

TOLERANCE = 0.02  # of the share asked for
_FLOOR = 16  # a group keeps at least one in so many of its units
_PAIRS = 12  # pairs of changes that are tried where no single one meets the share

Removed = Mapping[str, tuple[int, ...]]
Share = Callable[[Removed], float]  # the share of the network that is kept without those units


@dataclass(frozen=True, slots=True)
class Unit:
    """Channels of a group that are pruned in one step.

    rank: units of the lowest rank are pruned first.
    channels: the group's units (heads, channels) that the step removes.
    """

    rank: float
    group: str
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """What is pruned of each group, and the share of the network that is kept."""

    removed: dict[str, tuple[int, ...]]
    kept: float


def is_met(kept: float, keep: float) -> bool:
    """Whether the share `kept` is the share `keep`, within 2 % of it."""
    return abs(kept - keep) <= TOLERANCE * keep


def prunable_units(
    groups: Sequence[Group], *, multiple: int, share: Share, compete: bool = False, below: bool = False
) -> list[Unit]:
    """Every unit that can be pruned, lowest rank first; those of a group stay in the group's order.

    The rank is the error that a unit adds for each MAC (or parameter) it saves, where a group's sensitivity is known;
    else its norm, where groups compete; else the share of its group, or of the group and one that crosses it, that is
    pruned with it.

    multiple: the width of every layer stays a multiple of it.
    share: the share of the network that is kept without some units.
    compete: rank by norms across groups where sensitivities are unknown.
    below: a group of one multiple or less may be halved, and halved again.
    """
    return sorted(_ranked(groups, multiple, share, compete=compete, below=below), key=lambda unit: unit.rank)


def _ranked(groups: Sequence[Group], multiple: int, share: Share, *, compete: bool, below: bool) -> Iterator[Unit]:
    both = crossed(group for group in groups if not group.refused)
    for group in groups:
        steps = [] if group.refused else list(width_steps(group, multiple, below=below))
        if group.sensitivity and steps:
            first = steps[0][1]
            saved = max(1e-9, 1 - share({group.name: first})) / len(first)
            rank, start = 0.0, 0
            for edge, channels in steps:
                rank = max(rank, sum(group.sensitivity[start:edge]) / len(channels) / saved)
                start = edge
                yield Unit(rank, group.name, channels)
        elif compete:
            yield from (Unit(group.norms[edge - 1], group.name, channels) for edge, channels in steps)
        else:
            power = 2 if group.name in both else 1
            for edge, channels in steps:
                yield Unit(1 - (1 - edge / len(group.order)) ** power, group.name, channels)


def width_steps(group: Group, multiple: int, *, below: bool = False) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(units pruned so far, units) of each step in which `group` shrinks.

    The first step narrows every layer to the next lower multiple of `multiple`, each further step by one multiple.
    With `below`, a group of one multiple or less is then halved repeatedly. A group keeps a sixteenth. Of groups that
    cross heads, the dimensions of a head are a multiple, since heads may go too.
    """
    width = len(group.order)
    rows = {1 if group.crossing else len(rows[0]) for rows in group.producers.values()} or {1}
    step = math.lcm(*(multiple // math.gcd(multiple, each) for each in rows))
    least = max(1, -(-width // _FLOOR))
    widths = [kept for kept in range(width - (width % step or step), 0, -step) if kept >= max(step, least)]
    if below:
        smallest = widths[-1] if widths else width
        widths += [step >> power for power in range(1, step.bit_length()) if least <= step >> power < smallest]
    start = 0
    for kept in widths:
        yield width - kept, group.order[start : width - kept]
        start = width - kept


def nearest_cut(units: Sequence[Unit], *, keep: float, share: Share) -> Cut:
    """The cut, of at least one unit, that keeps nearest to the share `keep`.

    Bisection finds how many of the first units to prune. Where that misses `keep` by more than 2 %, single groups, and
    pairs of groups, lose more or fewer.

    units: at least one, in the order of `prunable_units`.
    """
    steps: dict[str, list[tuple[int, ...]]] = {}
    for unit in units:
        steps.setdefault(unit.group, []).append(unit.channels)

    def cut(taken: Mapping[str, int]) -> Cut:
        removed = {
            name: tuple(itertools.chain.from_iterable(steps[name][:count])) for name, count in taken.items() if count
        }
        return Cut(removed, share(removed))

    def first(count: int) -> Counter[str]:
        return Counter(unit.group for unit in units[:count])

    low, high = 0, len(units)  # the first `low` leave at least `keep`; search the last such number
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cut(first(middle)).kept >= keep else (low, middle - 1)
    best = _nearer(keep, *(cut(first(count)) for count in sorted({max(1, low), min(low + 1, len(units))})))
    if is_met(best.kept, keep) or low == len(units):  # even without all of them more than `keep` is kept
        return best
    return _adjusted(best, first(low), cut, most={name: len(sizes) for name, sizes in steps.items()}, keep=keep)


def _adjusted(
    best: Cut,
    start: Mapping[str, int],
    cut: Callable[[Mapping[str, int]], Cut],
    *,
    most: Mapping[str, int],
    keep: float,
) -> Cut:
    """The cut nearest to `keep` among `best` and those that differ from `start` in one or two groups.

    Tried are, in this order: one unit more or less, two groups at once, many units of one group.

    start: {group: units to prune}; it keeps at least `keep`.
    cut: the cut of so many units of each group.
    most: {group: units that it has}.
    """
    whole = cut(start).kept
    moves: dict[tuple[str, int], float] = {}  # (group, its units) -> by how much the share changes

    def tries() -> Iterator[Mapping[str, int]]:
        for name, count in ((name, start.get(name, 0) + by) for by in (1, -1) for name in most):
            if 0 <= count <= most[name]:
                yield {name: count}
        pairs = (pair for pair in itertools.combinations(moves, 2) if pair[0][0] != pair[1][0])
        yield from map(dict, heapq.nsmallest(_PAIRS, pairs, key=expected))
        for name in most:
            low, high = start.get(name, 0) + 1, most[name]
            while low < high:
                middle = (low + high + 1) // 2
                yield {name: middle}
                low, high = (middle, high) if whole + moves[name, middle] >= keep else (low, middle - 1)

    def expected(pair: tuple[tuple[str, int], tuple[str, int]]) -> float:
        return abs(whole + moves[pair[0]] + moves[pair[1]] - keep)

    for move in tries():
        taken = {**start, **move}
        if not sum(taken.values()):
            continue
        tried = cut(taken)
        best = _nearer(keep, best, tried)
        if is_met(best.kept, keep):
            break
        if len(move) == 1:
            moves[next(iter(move.items()))] = tried.kept - whole
    return best


def _nearer(keep: float, *cuts: Cut) -> Cut:
    return min(cuts, key=lambda cut: abs(cut.kept - keep))
