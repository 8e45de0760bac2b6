"""Sparsity allocation: how many channels each group loses so that a share of the network is kept."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgeoe.pruning.groups import Group

__all__ = ["TOLERANCE", "Cut", "Share", "Unit", "is_met", "nearest_cut", "prunable_units"]

TOLERANCE = 0.02  # of the share asked for
_FLOOR = 16  # a group keeps at least this part of its channels
_PAIRS = 12  # pairs of moves that are tried where no single one meets the share

Removed = Mapping[str, tuple[int, ...]]
Share = Callable[[Removed], float]  # what is kept of the network without those channels of its groups


@dataclass(frozen=True, slots=True)
class Unit:
    """Channels of a group that are pruned together. rank: those of the least rank go first."""

    rank: float
    group: str
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """The channels that each group loses, and the share that is kept without them."""

    removed: dict[str, tuple[int, ...]]
    kept: float


def is_met(kept: float, keep: float) -> bool:
    """Whether the share `kept` is the share `keep`, within 2 % of it."""
    return abs(kept - keep) <= TOLERANCE * keep


def prunable_units(
    groups: Sequence[Group], *, multiple: int, share: Share, compete: bool = False, below: bool = False
) -> list[Unit]:
    """Every unit that may be pruned, least rank first; a group's units follow one another in its order.

    The rank is the error that a unit adds for each MAC (or parameter) that it saves, where a group's cost is known;
    else its norm, where groups compete; else the share of its group that is gone once it is.
    multiple, below: as `_steps` takes them.
    """
    return sorted(_ranked(groups, multiple, share, compete=compete, below=below), key=lambda unit: unit.rank)


def _ranked(groups: Sequence[Group], multiple: int, share: Share, *, compete: bool, below: bool) -> Iterator[Unit]:
    for group in groups:
        steps = [] if group.refused else list(_steps(group, multiple, below=below))
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
            yield from (Unit(edge / len(group.order), group.name, channels) for edge, channels in steps)


def _steps(group: Group, multiple: int, *, below: bool) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(channels pruned by then, channels) of each step in which `group` shrinks.

    Every layer's width stays at multiples of `multiple`; the odd channels go first. below: what is left at one
    multiple, or was narrower from the start, may then be halved and halved again. A group keeps a sixteenth.
    """
    width = len(group.order)
    rows = {len(rows[0]) for rows in group.producers.values()} or {1}
    step = math.lcm(*(multiple // math.gcd(multiple, each) for each in rows))
    least = max(1, -(-width // _FLOOR))
    widths = [left for left in range(width - (width % step or step), 0, -step) if left >= max(step, least)]
    if below:
        smallest = widths[-1] if widths else width
        widths += [step >> power for power in range(1, step.bit_length()) if least <= step >> power < smallest]
    start = 0
    for left in widths:
        yield width - left, group.order[start : width - left]
        start = width - left


def nearest_cut(units: Sequence[Unit], *, keep: float, share: Share) -> Cut:
    """The cut that keeps nearest to the share `keep`, of at least one unit; units of low rank go first.

    How many of the first units go is searched by bisection. Where that misses by more than 2 %, single groups lose
    more or fewer, and pairs of groups. units: at least one, as `prunable_units` orders them.
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
    if is_met(best.kept, keep) or low == len(units):  # even without all of them more than `keep` is left
        return best
    return _adjusted(best, first(low), cut, most={name: len(own) for name, own in steps.items()}, keep=keep)


def _adjusted(
    best: Cut,
    start: Mapping[str, int],
    cut: Callable[[Mapping[str, int]], Cut],
    *,
    most: Mapping[str, int],
    keep: float,
) -> Cut:
    """The nearest of `best` and of cuts in which a group or two lose other numbers of units than in `start`.

    start: units by group; it keeps at least `keep`. most: units that each group has. What lies nearest to `start` is
    tried first: a unit more or less, then two groups at once, then many units of one.
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
