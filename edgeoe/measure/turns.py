"""Latencies of several loaded artifacts, measured in turns so that noise on the machine disturbs all alike."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from time import perf_counter, perf_counter_ns, thread_time_ns
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeoe.measure.affinity import on_cores
from edgeoe.targets.backends import runs_on, traits_of

if TYPE_CHECKING:
    from edgeoe.backends import Runner
    from edgeoe.targets.profile import Target

__all__ = ["time_in_turns"]


def time_in_turns(
    runners: Sequence[Runner],
    target: Target,
    *,
    shape: tuple[int, int, int],
    min_turns: int,
    seconds: float,
    calls: int,
) -> list[list[float]]:
    """Latencies of one call of each of `runners` in the batch size of `target`, one per turn, in milliseconds.

    In each turn every artifact runs once, and its latency is the median of `calls` calls.

    runners: loaded on the cores of `target`.
    shape: (C, H, W) of an image.
    min_turns, seconds: minimum of turns and of their duration.
    Raises BackendError if a core of `target` can't be used.
    """
    x = np.zeros((target.measure.batch, *shape), np.float32)
    turns: list[list[float]] = [[] for _ in runners]
    now_ns = _now_ns(target)
    with on_cores(target.runtime.affinity):
        count, start = 0, perf_counter()
        while count < min_turns or perf_counter() - start < seconds:
            for of_one, runner in zip(turns, runners, strict=True):
                runner.infer(x)  # another network has evicted the caches
                of_one.append(statistics.median(_call_ns(runner, x, now_ns) for _ in range(calls)) / 1e6)
            count += 1
    return turns


def _call_ns(runner: Runner, x: NDArray[np.float32], now_ns: Callable[[], int]) -> int:
    before = now_ns()
    runner.infer(x)
    return now_ns() - before


def _now_ns(target: Target) -> Callable[[], int]:
    """The timer of calls: the CPU time of this thread if it does all the work, else wall time.

    On a busy machine long calls are interrupted more often than short ones, and wall time would include that.
    """
    alone = runs_on(target) == "cpu" and traits_of(target.backend).single_thread(target)
    return thread_time_ns if alone and target.runtime.threads == 1 and sys.platform == "linux" else perf_counter_ns
