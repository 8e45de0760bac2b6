"""The quantities that edgeoe measures for every artifact; the table QUANTITIES names each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeoe.bounds import Fraction, Positive
from edgeoe.measure.quantity import Quantity
from edgeoe.records.measurement import Estimate

if TYPE_CHECKING:
    from edgeoe.records.measurement import Accuracy, Latency, Measurement, Speed

__all__ = [
    "MAX_DROP",
    "MEAN_RECALL",
    "P50_MS",
    "P90_MS",
    "P99_MS",
    "PEAK_MEMORY_MB",
    "RARE_RECALL",
    "SIZE_MB",
    "THROUGHPUT_IPS",
    "TOP1",
    "WORST_RECALL",
]


def _speed_figure(figure: Callable[[Speed], Estimate]) -> Callable[[Measurement], Estimate | None]:
    return lambda m: figure(m.speed) if m.speed else None


def _latency(figure: Callable[[Latency], Estimate]) -> Quantity:
    """A percentile of the milliseconds of a call."""
    return Quantity(
        sense="at most",
        bounds=Positive,
        estimate=_speed_figure(lambda speed: figure(speed.latency)),
        unknown=lambda m: m.not_measured,
        more="processes",
        noisy=True,
        follows="latency",
    )


def _accuracy(figure: Callable[[Accuracy], Estimate | None]) -> Quantity:
    """A share of test images, or a mean of such shares."""
    return Quantity(
        sense="at least",
        bounds=Fraction,
        estimate=lambda m: figure(m.accuracy) if m.accuracy else None,
        unknown=lambda m: "no test images of these classes" if m.accuracy else _WITHOUT_IMAGES,
        more="test images",
    )


def _size_mb(m: Measurement) -> Estimate:
    size = m.size_bytes / 1e6
    return Estimate(size, size, size)


_WITHOUT_IMAGES = "it was measured without test images"
_WITHOUT_TEACHER = "the teacher's predictions are missing: bundle again with --test and max_drop in [budget]"

P50_MS = _latency(lambda latency: latency.p50)
P90_MS = _latency(lambda latency: latency.p90)
P99_MS = _latency(lambda latency: latency.p99)

# Images per second, at the best of the measured batch sizes.
THROUGHPUT_IPS = Quantity(
    sense="at least",
    bounds=Positive,
    estimate=_speed_figure(lambda speed: max(speed.throughput_ips.values(), key=lambda rate: rate.value)),
    unknown=lambda m: m.not_measured,
    more="processes",
    noisy=True,
    follows="latency",
)

# Peak memory of the process that runs the artifact, in 10^6 bytes.
PEAK_MEMORY_MB = Quantity(
    sense="at most",
    bounds=Positive,
    estimate=_speed_figure(lambda speed: speed.peak_memory_mb),
    unknown=lambda m: m.not_measured,
    more="processes",
    follows="parameters",
)

# Size of the artifact's file, in 10^6 bytes.
SIZE_MB = Quantity(
    sense="at most",
    bounds=Positive,
    estimate=_size_mb,
    unknown=lambda m: m.not_measured,
    more="processes",
    follows="parameters",
)

# Top-1 of the teacher less that of the artifact, on the same images.
MAX_DROP = Quantity(
    sense="at most",
    bounds=Fraction,
    estimate=lambda m: m.drop,
    unknown=lambda m: _WITHOUT_TEACHER if m.accuracy else _WITHOUT_IMAGES,
    more="test images",
    needs_teacher=True,
)

TOP1 = _accuracy(lambda accuracy: accuracy.top1)
MEAN_RECALL = _accuracy(lambda accuracy: accuracy.mean_recall)
RARE_RECALL = _accuracy(lambda accuracy: accuracy.rare_recall)
WORST_RECALL = _accuracy(lambda accuracy: accuracy.worst_recall)
