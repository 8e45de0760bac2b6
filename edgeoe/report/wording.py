"""Texts for the figures of verdicts and comparisons, shared by all report formats."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite

from edgeoe.records.budget import Limit
from edgeoe.records.comparison import AccuracyChange, Comparison
from edgeoe.records.compression import SpeedUp
from edgeoe.records.measurement import Check, Estimate, Speed

__all__ = [
    "TOO_FEW_PROCESSES",
    "accuracy_text",
    "change_in_percent",
    "check_text",
    "from_text",
    "has_intervals",
    "origin_text",
    "shown_speed",
    "speed_text",
    "with_end",
]

TOO_FEW_PROCESSES = "intervals of speed need three processes or more: the profile sets their number"
_FEWEST_PROCESSES = 3  # with two, Student's t has one degree of freedom, and one disturbance makes an end of millions
_FARTHEST = 1000  # times the value; an end beyond says no more than that there is none


def has_intervals(speed: Speed) -> bool:
    """Whether `speed` is over enough processes for intervals that say something."""
    return speed.latency.processes >= _FEWEST_PROCESSES


def shown_speed(speed: Speed) -> Speed:
    """`speed` as reports show it: with too few processes the values alone, as intervals of no width."""
    if has_intervals(speed):
        return speed
    latency = speed.latency
    return replace(
        speed,
        latency=replace(latency, p50=_alone(latency.p50), p90=_alone(latency.p90), p99=_alone(latency.p99)),
        load_ms=_alone(speed.load_ms),
        first_ms=_alone(speed.first_ms),
        peak_memory_mb=_alone(speed.peak_memory_mb),
        throughput_ips={batch: _alone(rate) for batch, rate in speed.throughput_ips.items()},
        probed={name: _alone(one) for name, one in speed.probed.items()},
    )


def _alone(estimate: Estimate) -> Estimate:
    return Estimate(estimate.value, estimate.value, estimate.value)


def with_end(estimate: Estimate) -> Estimate:
    """`estimate`, without an upper end where that is beyond all measure."""
    return replace(estimate, high=inf) if estimate.high > _FARTHEST * abs(estimate.value) > 0 else estimate


def change_in_percent(ratio: Estimate) -> str:
    """A ratio new / base as a change with its interval: "+5.1 % [+4.2, +6.0]"."""
    value, low, high = (f"{100 * (end - 1):+.1f}" if isfinite(end) else "?" for end in _ends(ratio))
    return f"{value} % [{low}, {high}]"


def accuracy_text(change: AccuracyChange) -> str:
    """A difference in points with its interval, and the numbers of images that changed."""
    value, low, high = (f"{100 * end:+.1f}" for end in _ends(change.difference))
    counts = f"{change.only_base} lost, {change.only_new} won of {change.images} images"
    return f"{value} points [{low}, {high}], {counts}"


def check_text(check: Check) -> str:
    """A check with its measured value, interval and limit."""
    if check.limit is None:
        return f"{check.name}: {check.reason}"
    limit = f"{check.sense} {check.limit:g}"
    if check.origin:
        limit = f"{check.sense} {check.limit:.4g} ({from_text(check)})"
    if check.measured is None:
        return f"{check.name} {limit}: {check.reason}"
    _, low, high = _ends(with_end(check.measured))
    interval = f" [{low:.4g}, {f'{high:.4g}' if isfinite(high) else '?'}]" if low < high else ""
    reason = f" ({check.reason})" if check.reason else ""
    return f"{check.name} {check.measured.value:.4g}{interval}, {limit}{reason}"


def from_text(limit: Check | Limit) -> str:
    """Where a limit that is not the profile's is from; empty for the profile's."""
    return f"from {limit.origin}" if limit.origin else ""


def origin_text(comparison: Comparison) -> str:
    """Whose word the figures of a comparison are: this machine's, that of a key, or the results' alone."""
    parts = [f"latency {comparison.latency_from}"] if comparison.latency else []
    parts += [f"accuracy {comparison.accuracy_from}"] if comparison.accuracy else []
    return "; ".join(parts)


def speed_text(speed: SpeedUp) -> str:
    """The speed of a student relative to its teacher, to follow "the student is"."""
    ratio = speed.ratio
    if speed.outcome is None or ratio is None:
        return f"not timed against its teacher on {speed.target}: {speed.reason.rstrip('.')}"
    pace = {"faster": "faster than", "slower": "slower than", "about as fast": "only about as fast as"}[speed.outcome]
    advice = f". What may help: {speed.advice}" if speed.advice else ""
    figures = f"{speed.student_ms:.3g} instead of {speed.teacher_ms:.3g} ms"
    return (
        f"{pace} its teacher with the runtime of {speed.target} on this machine: "
        f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] of its time, {figures} "
        f"({speed.precision}, {speed.n} turns){advice}"
    )


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high
