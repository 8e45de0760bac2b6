"""Raw samples -> figures with intervals, and the noise that makes them inconclusive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeoe.measure.statistics import nearest_rank, over_processes, percentile_over_processes, variation
from edgeoe.records.measurement import Latency, Speed
from edgeoe.records.result import SpeedSamples
from edgeoe.targets.profile import MeasureSettings

__all__ = ["speed_from_samples"]


def speed_from_samples(samples: SpeedSamples, settings: MeasureSettings) -> Speed:
    """The figures of `samples`: percentiles over the pooled calls, and geometric means over processes for the rest.

    settings: how much noise is allowed.
    """
    calls = [np.asarray(row, np.float64) for row in samples.calls_ms]
    p50, p90, p99 = (percentile_over_processes(calls, share) for share in (0.50, 0.90, 0.99))
    return Speed(
        latency=Latency(p50=p50, p90=p90, p99=p99, n=sum(map(len, calls)), batch=samples.batch, processes=len(calls)),
        load_ms=over_processes(samples.load_ms),
        first_ms=over_processes(samples.first_ms),
        peak_memory_mb=over_processes(samples.peak_memory_mb),
        throughput_ips={batch: over_processes(values) for batch, values in samples.throughput_ips.items()},
        probed={name: over_processes(values) for name, values in samples.probed.items()},
        not_probed=samples.not_probed,
        noise=tuple(_noise(samples, settings)),
    )


def _noise(samples: SpeedSamples, settings: MeasureSettings) -> Iterator[str]:
    yield from samples.disturbed
    spread = variation([nearest_rank(np.asarray(calls, np.float64), 0.50) for calls in samples.calls_ms])
    if spread > settings.max_variation:
        yield f"p50 varies by {100 * spread:.0f} % from process to process, allowed {100 * settings.max_variation:g} %"
    if 2 * samples.unsteady > len(samples.calls_ms):
        yield (
            f"{samples.unsteady} of {len(samples.calls_ms)} processes were not steady after "
            f"{settings.warmup_max_seconds:g} s of warm-up"
        )
