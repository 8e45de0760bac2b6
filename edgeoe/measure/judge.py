"""Measurement and budget -> verdict."""

from __future__ import annotations

import dataclasses
from typing import Literal

from edgeoe.records import Budget, Check, Estimate, Measurement, Outcome, Verdict

__all__ = ["MIN_AGREEMENT", "judge"]

_ACCURACIES = ("top1", "mean_recall", "rare_recall", "worst_recall")
_BY_IMAGES = (*_ACCURACIES, "max_drop")
_UNCLEAR: Outcome = "inconclusive"
_UNKNOWN = "it was measured without test images"
MIN_AGREEMENT = 0.95  # of the artifact with its student on the golden images: fewer is a broken build


def judge(measurement: Measurement, budget: Budget) -> Verdict:
    """Check each limit of `budget`, and always that the artifact decides as its student does.

    A limit is passed or failed only if the whole 95 % interval lies on one side of it, else inconclusive. So is a limit
    on latency or throughput, with the reason, where noise forbids to judge it.
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
    for field in dataclasses.fields(budget):
        limit = getattr(budget, field.name)
        if limit is not None:
            checks.append(_check(field.name, limit, measurement))
    return Verdict(tuple(checks))


def _check(name: str, limit: float, m: Measurement) -> Check:
    latency, accuracy = m.speed.latency, m.accuracy
    size = m.size_bytes / 1e6
    running: dict[str, Estimate] = {
        "p50_ms": latency.p50,
        "p90_ms": latency.p90,
        "p99_ms": latency.p99,
        "throughput_ips": max(m.speed.throughput_ips.values(), key=lambda rate: rate.value),
    }
    known: dict[str, Estimate | None] = {
        **running,
        "peak_memory_mb": m.speed.peak_memory_mb,
        "size_mb": Estimate(size, size, size),
        "max_drop": m.drop,
        **({key: getattr(accuracy, key) for key in _ACCURACIES} if accuracy else dict.fromkeys(_ACCURACIES)),
    }
    sense: Literal["at most", "at least"] = "at least" if name in ("throughput_ips", *_ACCURACIES) else "at most"
    measured = known[name]
    if measured is None:
        outcome, reason = _UNCLEAR, _UNKNOWN if accuracy is None else "no test images of these classes"
    elif name in running and m.speed.noise:
        outcome, reason = _UNCLEAR, "; ".join(m.speed.noise)
    else:
        outcome, reason = _outcome(sense, limit, measured, more="test images" if name in _BY_IMAGES else "processes")
    return Check(name=name, limit=limit, sense=sense, measured=measured, outcome=outcome, reason=reason)


def _outcome(sense: str, limit: float, estimate: Estimate, *, more: str) -> tuple[Outcome, str]:
    inside = estimate.high <= limit if sense == "at most" else estimate.low >= limit
    outside = estimate.low > limit if sense == "at most" else estimate.high < limit
    if inside or outside:
        return ("passed", "") if inside else ("failed", "")
    return "inconclusive", f"the limit lies within the 95 % interval: more {more} would tell"
