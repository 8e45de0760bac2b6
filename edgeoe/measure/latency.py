"""How long the calls of one loaded artifact take, in the process that loaded it."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from time import perf_counter_ns

__all__ = ["time_calls", "warm_up"]

_WINDOW_NS, _WINDOW_CALLS = 20_000_000, 3  # the warm-up looks at medians over at least so long and so many calls
_STEADY = 0.05  # the last two windows and the two before them differ by less than this share


def warm_up(call: Callable[[], object], *, least_seconds: float, most_seconds: float) -> tuple[float, bool]:
    """Call until the calls take no longer and no less than before: the seconds it took, and whether they came to that.

    least_seconds, most_seconds: bounds; a call that has begun is ended.
    """
    start, medians = perf_counter_ns(), [_window(call)] if most_seconds > 0 else []
    while medians:
        past = (perf_counter_ns() - start) / 1e9
        if past >= least_seconds and _is_steady(medians):
            return past, True
        if past >= most_seconds:
            return past, False
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
    """Nanoseconds of each call, until both the least time and the least number are reached.

    Python's garbage collector is off meanwhile.
    """
    taken: list[int] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        until = perf_counter_ns() + int(seconds * 1e9)
        while True:
            before = perf_counter_ns()
            call()
            after = perf_counter_ns()
            taken.append(after - before)
            if after >= until and len(taken) >= calls:
                return taken
    finally:
        if collecting:
            gc.enable()
