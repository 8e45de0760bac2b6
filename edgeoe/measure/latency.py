"""How long one call of an artifact takes."""

from __future__ import annotations

import gc
from time import perf_counter, perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from edgeoe.backends import Runner
from edgeoe.measure.statistics import percentile
from edgeoe.progress import Progress, silent
from edgeoe.records import Latency, MeasureSettings

__all__ = ["latency_from_samples", "sample_latency"]


def sample_latency(
    runner: Runner, image: NDArray[np.float32], settings: MeasureSettings, *, progress: Progress = silent
) -> NDArray[np.float64]:
    """Milliseconds of each call of `runner` on (batch, C, H, W) copies of `image` (C, H, W).

    After a warm-up it samples until both the minimum time and the minimum number are reached. Python's
    garbage collector is off meanwhile.
    """
    x = np.ascontiguousarray(np.broadcast_to(image, (settings.batch, *image.shape)))
    warm_until = perf_counter() + settings.warmup_seconds
    while perf_counter() < warm_until:
        runner.infer(x)
    samples: list[int] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        with progress("Measuring latency", 100) as advance:
            start, shown = perf_counter_ns(), 0
            while True:
                before = perf_counter_ns()
                runner.infer(x)
                after = perf_counter_ns()
                samples.append(after - before)
                share = min((after - start) / 1e9 / settings.min_seconds, len(samples) / settings.min_iterations)
                while shown < min(100, int(share * 100)):  # at most 100 times in all: no cost to speak of
                    shown += 1
                    advance()
                if share >= 1:
                    break
    finally:
        if collecting:
            gc.enable()
    return np.asarray(samples, np.float64) / 1e6


def latency_from_samples(samples_ms: NDArray[np.float64], *, batch: int) -> Latency:
    """Percentiles of (n,) calls."""
    p50, p90, p99 = (percentile(samples_ms, share) for share in (0.50, 0.90, 0.99))
    return Latency(p50=p50, p90=p90, p99=p99, n=len(samples_ms), batch=batch)
