"""Two artifacts measured one against the other, so that whatever disturbs one disturbs the other alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

from edgeoe.machine.system import usable_cores
from edgeoe.measure.process import Process
from edgeoe.measure.statistics import nearest_rank
from edgeoe.targets.backends import runs_on
from edgeoe.targets.profile import Target

__all__ = ["Round", "play_round", "shared_core"]

_BURST_SECONDS, _BURST_CALLS = 0.01, 3  # a turn takes about so long, and at least so many calls
_ROUND_SECONDS, _ROUND_CALLS = 0.25, 20  # what each side is timed for in a round, at least
_WARM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """Milliseconds of each side's calls in a pair of fresh processes, a row for each time that they took turns."""

    base_ms: tuple[tuple[float, ...], ...]
    new_ms: tuple[tuple[float, ...], ...]

    def p50(self) -> tuple[float, float]:
        """p50 of base, and that times the median over turns of new / base.

        What disturbs a turn disturbs both of its sides, so the ratio within turns is quieter than that of two p50.
        """
        base, new = (np.asarray([nearest_rank(np.asarray(row), 0.50) for row in side]) for side in self._sides())
        p50 = float(np.median(base))
        return p50, p50 * float(np.exp(np.median(np.log(new / base))))

    def p99(self) -> tuple[float, float]:
        """p99 of all calls of base, and of new."""
        base, new = (nearest_rank(np.concatenate([np.asarray(row) for row in side]), 0.99) for side in self._sides())
        return base, new

    def _sides(self) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
        return self.base_ms, self.new_ms


def play_round(base: Path, new: Path, target: Target, number: int) -> Round:
    """Load both in fresh processes and let them take turns, ABBA ABBA, while the other waits.

    number: of the round, from 0. Who is loaded first and begins alternates, and the core that both share goes round.
    """
    usable = usable_cores() if hasattr(os, "sched_setaffinity") else ()
    target = shared_core(target, number, usable)
    base_first = number % 2 == 0
    settings = target.measure
    order = (base, new) if base_first else (new, base)
    with ExitStack() as running:
        one, two = [running.enter_context(Process(path, target)) for path in order]
        for process in (one, two):
            least, most = settings.warmup_seconds, min(settings.warmup_max_seconds, _WARM_SECONDS)
            process.ask("warm_up", least_seconds=min(least, most), most_seconds=most)
        slower_ms = max(
            float(np.median(process.ask("burst", calls=_BURST_CALLS)["calls_ns"])) / 1e6 for process in (one, two)
        )
        calls = max(_BURST_CALLS, ceil(1e3 * _BURST_SECONDS / slower_ms))
        turns = max(ceil(1e3 * _ROUND_SECONDS / (2 * calls * slower_ms)), ceil(_ROUND_CALLS / (2 * calls)))
        taken: dict[Process, list[tuple[float, ...]]] = {one: [], two: []}
        for _ in range(turns):
            first, second, third, fourth = (_burst(process, calls) for process in (one, two, two, one))
            taken[one].append(first + fourth)
            taken[two].append(second + third)
    sides = tuple(taken[one]), tuple(taken[two])
    return Round(*sides) if base_first else Round(*reversed(sides))


def shared_core(target: Target, number: int, usable: Sequence[int]) -> Target:
    """`target`, kept on one of the `usable` cores in round `number`, where a single thread on a CPU does the work.

    Else the scheduler may leave base on one core and new on another, of which the one may be the slower: a round's
    ratio of an artifact to itself then has a standard deviation of 3 to 8 %, and of 0.4 to 0.9 % on the same core. More
    threads are left to the scheduler, which knows what cores share.
    """
    cores = target.runtime.affinity or usable
    if not cores or runs_on(target) != "cpu" or target.runtime.threads > 1:
        return target
    core = cores[number // 2 % len(cores)]  # two rounds on each, as who begins alternates
    return replace(target, runtime=replace(target.runtime, affinity=(core,)))


def _burst(process: Process, calls: int) -> tuple[float, ...]:
    return tuple(ns / 1e6 for ns in process.ask("burst", calls=calls)["calls_ns"])
