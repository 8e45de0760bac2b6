"""What is timed, and how often; never how fast."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import pytest

from edgeoe.measure.latency import time_calls, warm_up


class Calls:
    """A call that notes itself; each takes the next of `ms` on the clock that it brings, then always the last."""

    def __init__(self, ms: Sequence[float]) -> None:
        self.now_ns, self.number, self.ms = 0, 0, list(ms)
        self.collecting: list[bool] = []

    def __call__(self) -> None:
        self.collecting.append(gc.isenabled())
        self.now_ns += int(self.ms[min(self.number, len(self.ms) - 1)] * 1_000_000)
        self.number += 1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    def make(*ms: float) -> Calls:
        made = Calls(ms)
        monkeypatch.setattr("edgeoe.measure.latency.perf_counter_ns", lambda: made.now_ns)
        return made

    return make


def test_every_call_is_timed_by_itself(calls: Callable[..., Calls]) -> None:
    assert time_calls(calls(1, 2, 3), seconds=0, calls=3) == [1_000_000, 2_000_000, 3_000_000]


@pytest.mark.parametrize(("seconds", "number", "taken"), [(0.1, 10, 50), (0.0, 25, 25), (0.05, 25, 25), (0.0, 1, 1)])
def test_it_goes_on_until_both_minima_are_reached(
    calls: Callable[..., Calls], seconds: float, number: int, taken: int
) -> None:
    assert len(time_calls(calls(2), seconds=seconds, calls=number)) == taken


def test_no_garbage_is_collected_between_calls(calls: Callable[..., Calls]) -> None:
    call = calls(1)
    time_calls(call, seconds=0, calls=5)
    assert not any(call.collecting)
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        time_calls(lambda: 1 // 0, seconds=0, calls=5)
    assert gc.isenabled()


def test_a_user_who_turned_collecting_off_keeps_it_off(calls: Callable[..., Calls]) -> None:
    gc.disable()
    try:
        time_calls(calls(1), seconds=0, calls=5)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_equal_calls_are_steady_after_the_least_time(calls: Callable[..., Calls]) -> None:
    assert warm_up(calls(1), least_seconds=0.2, most_seconds=5) == (0.2, True)
    assert warm_up(calls(1), least_seconds=0.0, most_seconds=5) == (0.08, True)  # four windows are the least to look at


def test_the_warm_up_lasts_until_calls_stop_getting_faster(calls: Callable[..., Calls]) -> None:
    falling = [10 * 0.97**number for number in range(100)]
    call = calls(*falling)
    seconds, steady = warm_up(call, least_seconds=0, most_seconds=60)
    assert steady
    assert call.number > 90
    assert seconds == pytest.approx(call.now_ns / 1e9)


def test_four_windows_are_the_least_that_can_be_steady(calls: Callable[..., Calls]) -> None:
    """Of three, the second half would be two windows and the first one, of which half the speed looks the same."""
    assert warm_up(calls(20, 20, 20, 10), least_seconds=0, most_seconds=60) == (0.18, True)  # 60 ms, and 4 times 30


@pytest.mark.parametrize(("ms", "steady"), [(19.1, True), (18.9, False), (20.9, True), (21.1, False)])
def test_two_windows_may_differ_by_5_percent_from_the_two_before(
    calls: Callable[..., Calls], ms: float, steady: bool
) -> None:
    _, as_before = warm_up(calls(*[20] * 6, ms), least_seconds=0, most_seconds=0.2)  # four windows of three calls
    assert as_before is steady


def test_calls_that_never_settle_are_bounded_and_told(calls: Callable[..., Calls]) -> None:
    growing = [1.02**number for number in range(600)]
    seconds, steady = warm_up(calls(*growing), least_seconds=0, most_seconds=2)
    assert not steady
    assert 2 <= seconds < 3


def test_a_slow_call_is_not_repeated_beyond_the_bound(calls: Callable[..., Calls]) -> None:
    call = calls(2_000)
    warm_up(call, least_seconds=0, most_seconds=1)
    assert call.number == 3  # one window


def test_no_warm_up_calls_nothing(calls: Callable[..., Calls]) -> None:
    call = calls(1)
    assert warm_up(call, least_seconds=0, most_seconds=0) == (0.0, True)
    assert call.number == 0
