"""Measurement and budget -> verdict."""

from __future__ import annotations

import dataclasses
from typing import Literal

from edgeoe.records.measurement import Check, Estimate, Measurement, Outcome, Verdict
from edgeoe.targets.profile import Budget

__all__ = ["BY_IMAGES", "MIN_AGREEMENT", "RUNNING", "UNLIMITED", "judge"]

_ACCURACIES = ("top1", "mean_recall", "rare_recall", "worst_recall")
BY_IMAGES = (*_ACCURACIES, "max_drop")  # limits that more test images tell more of
RUNNING = ("p50_ms", "p90_ms", "p99_ms", "throughput_ips")  # what noise spoils
_UNCLEAR: Outcome = "inconclusive"
MIN_AGREEMENT = 0.95  # of the artifact with its student on the golden images: fewer is a broken build
UNLIMITED = ("golden_agreement", "device")  # checks that no budget asks for


def judge(measurement: Measurement, budget: Budget) -> Verdict:
    """Check each limit of `budget`, and always that the artifact decides as its student does.

    A limit is passed or failed only if the whole 95 % interval lies on one side of it, else inconclusive. So is a limit
    on latency or throughput, with the reason, where noise forbids to judge it; and, whatever the budget, all that was
    not measured on the device.
    """
    agreement = measurement.golden_agreement
    checks = [
        Check(
            name="golden_agreement",
            limit=MIN_AGREEMENT,
            sense="at least",
            measured=Estimate(agreement, agreement, agreement),
            outcome="passed" if agreement >= MIN_AGREEMENT else "failed",
        )
    ]
    if measurement.speed is None:
        reason = measurement.not_measured
        checks.append(Check(name="device", limit=None, sense="at most", measured=None, outcome=_UNCLEAR, reason=reason))
    for field in dataclasses.fields(budget):
        limit = getattr(budget, field.name)
        if limit is not None:
            checks.append(_check(field.name, limit, measurement))
    return Verdict(tuple(checks))


def _check(name: str, limit: float, m: Measurement) -> Check:
    sense: Literal["at most", "at least"] = "at least" if name in ("throughput_ips", *_ACCURACIES) else "at most"
    measured = _measured(name, m)
    if measured is None:
        outcome, reason = _UNCLEAR, _why_unknown(name, m)
    elif name in RUNNING and m.speed and m.speed.noise:
        outcome, reason = _UNCLEAR, "; ".join(m.speed.noise)
    else:
        outcome, reason = _outcome(sense, limit, measured, more="test images" if name in BY_IMAGES else "processes")
    return Check(name=name, limit=limit, sense=sense, measured=measured, outcome=outcome, reason=reason)


def _measured(name: str, m: Measurement) -> Estimate | None:
    if name in _ACCURACIES:
        accuracy: Estimate | None = getattr(m.accuracy, name) if m.accuracy else None
        return accuracy
    if name == "max_drop":
        return m.drop
    if name == "size_mb":
        size = m.size_bytes / 1e6
        return Estimate(size, size, size)
    if m.speed is None:
        return None
    if name == "throughput_ips":
        return max(m.speed.throughput_ips.values(), key=lambda rate: rate.value)
    if name == "peak_memory_mb":
        return m.speed.peak_memory_mb
    latency: Estimate = getattr(m.speed.latency, name.removesuffix("_ms"))
    return latency


def _why_unknown(name: str, m: Measurement) -> str:
    if name not in BY_IMAGES:
        return m.not_measured
    if m.accuracy is None:
        return "it was measured without test images"
    if name == "max_drop":
        return "the teacher's predictions are missing: bundle again with --test and max_drop in [budget]"
    return "no test images of these classes"


def _outcome(sense: str, limit: float, estimate: Estimate, *, more: str) -> tuple[Outcome, str]:
    inside = estimate.high <= limit if sense == "at most" else estimate.low >= limit
    outside = estimate.low > limit if sense == "at most" else estimate.high < limit
    if inside or outside:
        return ("passed", "") if inside else ("failed", "")
    return "inconclusive", f"the limit lies within the 95 % interval: more {more} would tell"
