"""What is sampled, and how often; never how fast."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeoe.measure.latency import latency_from_samples, sample_latency
from edgeoe.records import MeasureSettings


class Counting:
    """A runner that notes its calls; each takes `ms` on the clock that it brings along."""

    def __init__(self, ms: int = 1) -> None:
        self.now_ns, self.ms = 0, ms
        self.shapes: list[tuple[int, ...]] = []
        self.collecting: list[bool] = []

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.shapes.append(x.shape)
        self.collecting.append(gc.isenabled())
        self.now_ns += self.ms * 1_000_000
        return np.zeros((len(x), 2), np.float32)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Counting:
    made = Counting(ms=2)
    monkeypatch.setattr("edgeoe.measure.latency.perf_counter", lambda: made.now_ns / 1e9)
    monkeypatch.setattr("edgeoe.measure.latency.perf_counter_ns", lambda: made.now_ns)
    return made


IMAGE = np.zeros((1, 4, 4), np.float32)


def test_it_samples_the_minimum_number_at_the_profiles_batch(runner: Counting) -> None:
    settings = MeasureSettings(batch=3, warmup_seconds=0, min_seconds=1e-6, min_iterations=25)
    samples_ms = sample_latency(runner, IMAGE, settings)
    assert len(samples_ms) == len(runner.shapes) == 25
    assert set(runner.shapes) == {(3, 1, 4, 4)}
    assert (samples_ms == 2.0).all()


def test_it_goes_on_until_the_minimum_time_is_reached(runner: Counting) -> None:
    settings = MeasureSettings(warmup_seconds=0, min_seconds=0.1, min_iterations=10)
    assert len(sample_latency(runner, IMAGE, settings)) == 50


def test_the_warm_up_is_not_counted(runner: Counting) -> None:
    settings = MeasureSettings(warmup_seconds=0.02, min_seconds=1e-6, min_iterations=15)
    samples_ms = sample_latency(runner, IMAGE, settings)
    assert (len(samples_ms), len(runner.shapes)) == (15, 25)


def test_no_garbage_is_collected_between_calls(runner: Counting) -> None:
    sample_latency(runner, IMAGE, MeasureSettings(warmup_seconds=0, min_seconds=1e-6, min_iterations=10))
    assert not any(runner.collecting)
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_failure(runner: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(x: NDArray[np.float32]) -> NDArray[np.float32]:
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "infer", fail)
    with pytest.raises(ZeroDivisionError):
        sample_latency(runner, IMAGE, MeasureSettings(warmup_seconds=0))
    assert gc.isenabled()


def test_a_user_who_turned_collecting_off_keeps_it_off(runner: Counting) -> None:
    gc.disable()
    try:
        sample_latency(runner, IMAGE, MeasureSettings(warmup_seconds=0, min_seconds=1e-6, min_iterations=10))
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("calls", [10, 99, 250])
def test_progress_ends_at_100(calls: int, runner: Counting) -> None:
    told: list[str] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
        assert total == 100
        yield lambda: told.append(title)

    settings = MeasureSettings(warmup_seconds=0, min_seconds=1e-6, min_iterations=calls)
    sample_latency(runner, IMAGE, settings, progress=progress)
    assert len(told) == 100


def test_percentiles_of_the_calls_are_kept_with_their_number() -> None:
    latency = latency_from_samples(np.arange(1.0, 1001.0), batch=2)
    assert (latency.p50.value, latency.p90.value, latency.p99.value) == (500.0, 900.0, 990.0)
    assert (latency.n, latency.batch) == (1000, 2)
