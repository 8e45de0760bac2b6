"""Timing of the calls of a loaded artifact, in the process that loaded it."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from time import perf_counter_ns

__all__ = ["time_calls", "warm_up"]

_WINDOW_NS, _WINDOW_CALLS = 20_000_000, 3  # minimum duration and calls of a window, whose median the warm-up compares
_STEADY = 0.05  # maximum relative difference of the last two windows from the two before them


def warm_up(call: Callable[[], object], *, least_seconds: float, most_seconds: float) -> tuple[float, bool]:
    """Call until latency is steady. Returns the seconds that it took, and whether latency became steady.

    least_seconds, most_seconds: bounds of the warm-up; the last call may exceed them.
    """
    start, medians = perf_counter_ns(), [_window(call)] if most_seconds > 0 else []
    while medians:
        elapsed = (perf_counter_ns() - start) / 1e9
        if elapsed >= least_seconds and _is_steady(medians):
            return elapsed, True
        if elapsed >= most_seconds:
            return elapsed, False
        medians.append(_window(call))
    return 0.0, True


def _window(call: Callable[[], object]) -> float:
    calls = time_calls(call, seconds=_WINDOW_NS / 1e9, calls=_WINDOW_CALLS)
    return statistics.median(calls)


def _is_steady(medians: list[float]) -> bool:
    if len(medians) < 4:
        return False
    before, now = sum(medians[-4:-2]), sum(medians[-2:])
    return abs(now - before) <= _STEADY * before


def time_calls(call: Callable[[], object], *, seconds: float, calls: int) -> list[int]:
    """Nanoseconds of each of repeated calls, with Python's garbage collector off.

    seconds, calls: minimum duration and minimum number of calls; both are reached.
    """
    calls_ns: list[int] = []
    gc_was_enabled = gc.isenabled()
    gc.disable()
    try:
        end = perf_counter_ns() + int(seconds * 1e9)
        while True:
            before = perf_counter_ns()
            call()
            after = perf_counter_ns()
            calls_ns.append(after - before)
            if after >= end and len(calls_ns) >= calls:
                return calls_ns
    finally:
        if gc_was_enabled:
            gc.enable()
