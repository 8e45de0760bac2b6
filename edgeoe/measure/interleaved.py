"""Interleaved benchmark of two artifacts, so that noise on the machine disturbs both alike."""

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

__all__ = ["Round", "measure_round", "pin_to_shared_core"]

_BURST_SECONDS, _BURST_CALLS = 0.01, 3  # about how long a burst takes, and its minimum of calls
_ROUND_SECONDS, _ROUND_CALLS = 0.25, 20  # minimum that each artifact is timed for in a round
_WARM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """Latencies of base and new from one pair of fresh processes.

    base_ms, new_ms: milliseconds of the calls, one row per ABBA turn.
    """

    base_ms: tuple[tuple[float, ...], ...]
    new_ms: tuple[tuple[float, ...], ...]

    def p50(self) -> tuple[float, float]:
        """p50 of base, and p50 of base times the median over turns of new / base.

        Noise in a turn disturbs both artifacts, so the ratio within turns varies less than the ratio of the two p50.
        """
        base, new = (np.asarray([nearest_rank(np.asarray(row), 0.50) for row in side]) for side in self._sides())
        p50 = float(np.median(base))
        return p50, p50 * float(np.exp(np.median(np.log(new / base))))

    def p99(self) -> tuple[float, float]:
        """p99 of all calls of base, and of all calls of new."""
        base, new = (nearest_rank(np.concatenate([np.asarray(row) for row in side]), 0.99) for side in self._sides())
        return base, new

    def _sides(self) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
        return self.base_ms, self.new_ms


def measure_round(base: Path, new: Path, target: Target, number: int) -> Round:
    """Load `base` and `new` in fresh processes and time them in turns, in the order ABBA, one at a time.

    number: index of the round, from 0. It alternates which one is loaded and timed first, and rotates the core that
        both share.
    """
    usable = usable_cores() if hasattr(os, "sched_setaffinity") else ()
    target = pin_to_shared_core(target, number, usable)
    base_first = number % 2 == 0
    settings = target.measure
    order = (base, new) if base_first else (new, base)
    with ExitStack() as running:
        leader, follower = [running.enter_context(Process(path, target)) for path in order]
        for process in (leader, follower):
            min_seconds, max_seconds = settings.warmup_seconds, min(settings.warmup_max_seconds, _WARM_SECONDS)
            process.ask("warm_up", least_seconds=min(min_seconds, max_seconds), most_seconds=max_seconds)
        slower_ms = max(
            float(np.median(process.ask("burst", calls=_BURST_CALLS)["calls_ns"])) / 1e6
            for process in (leader, follower)
        )
        calls = max(_BURST_CALLS, ceil(1e3 * _BURST_SECONDS / slower_ms))
        turns = max(ceil(1e3 * _ROUND_SECONDS / (2 * calls * slower_ms)), ceil(_ROUND_CALLS / (2 * calls)))
        turns_ms: dict[Process, list[tuple[float, ...]]] = {leader: [], follower: []}
        for _ in range(turns):
            a, b, c, d = (_burst(process, calls) for process in (leader, follower, follower, leader))
            turns_ms[leader].append(a + d)
            turns_ms[follower].append(b + c)
    sides = tuple(turns_ms[leader]), tuple(turns_ms[follower])
    return Round(*sides) if base_first else Round(*reversed(sides))


def pin_to_shared_core(target: Target, number: int, usable: Sequence[int]) -> Target:
    """`target` with its process pinned to one of the `usable` cores, if it runs one thread on a CPU.

    Otherwise the scheduler may place base and new on different cores, of which one may be slower: the ratio of an
    artifact to itself then has a standard deviation of 3 to 8 % over rounds, against 0.4 to 0.9 % on the same core.
    Several threads are left to the scheduler, which knows what the cores share.

    number: index of the round, from 0; the core changes every two rounds.
    usable: cores that this process may use.
    """
    cores = target.runtime.affinity or usable
    if not cores or runs_on(target) != "cpu" or target.runtime.threads > 1:
        return target
    core = cores[number // 2 % len(cores)]  # two rounds on each, since the one timed first alternates
    return replace(target, runtime=replace(target.runtime, affinity=(core,)))


def _burst(process: Process, calls: int) -> tuple[float, ...]:
    return tuple(ns / 1e6 for ns in process.ask("burst", calls=calls)["calls_ns"])
