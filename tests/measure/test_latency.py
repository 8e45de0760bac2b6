"""What is sampled, and how often; never how fast."""

from __future__ import annotations

import gc

import numpy as np
from numpy.typing import NDArray

from edgeoe.measure.latency import latency_from_samples, sample_latency
from edgeoe.records import MeasureSettings


class Counting:
    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.collecting: list[bool] = []

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.shapes.append(x.shape)
        self.collecting.append(gc.isenabled())
        return np.zeros((len(x), 2), np.float32)


def test_it_samples_the_minimum_number_at_the_profiles_batch() -> None:
    runner, settings = Counting(), MeasureSettings(batch=3, warmup_seconds=0, min_seconds=1e-6, min_iterations=25)
    samples_ms = sample_latency(runner, np.zeros((1, 4, 4), np.float32), settings)
    assert len(samples_ms) == len(runner.shapes) == 25
    assert set(runner.shapes) == {(3, 1, 4, 4)}
    assert (samples_ms >= 0).all()


def test_the_warm_up_is_not_counted_and_garbage_is_collected_again_afterwards() -> None:
    runner, settings = Counting(), MeasureSettings(warmup_seconds=0.01, min_seconds=1e-6, min_iterations=10)
    samples_ms = sample_latency(runner, np.zeros((1, 2, 2), np.float32), settings)
    assert len(runner.shapes) > len(samples_ms) >= 10
    assert not any(runner.collecting[-len(samples_ms) :])
    assert gc.isenabled()


def test_the_minimum_time_is_sampled_too() -> None:
    settings = MeasureSettings(warmup_seconds=0, min_seconds=0.02, min_iterations=10)
    samples_ms = sample_latency(Counting(), np.zeros((1, 2, 2), np.float32), settings)
    assert len(samples_ms) > 10


def test_percentiles_of_the_calls_are_kept_with_their_number() -> None:
    latency = latency_from_samples(np.arange(1.0, 1001.0), batch=2)
    assert (latency.p50.value, latency.p90.value, latency.p99.value) == (500.0, 900.0, 990.0)
    assert (latency.n, latency.batch) == (1000, 2)
