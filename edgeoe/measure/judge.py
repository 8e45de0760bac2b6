"""Measurement and budget -> verdict."""

from __future__ import annotations

import dataclasses
from typing import Literal

from edgeoe.records import Budget, Check, Estimate, Measurement, Outcome, Verdict

__all__ = ["MIN_AGREEMENT", "judge"]

MIN_AGREEMENT = 0.95  # of the artifact with its student on the golden images: fewer is a broken build


def judge(measurement: Measurement, budget: Budget) -> Verdict:
    """Check each limit of `budget`, and always that the artifact decides as its student does.

    A limit is passed or failed only if the whole 95 % interval lies on one side of it, else inconclusive.
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
    measured = _measured(measurement)
    for field in dataclasses.fields(budget):
        limit = getattr(budget, field.name)
        if limit is not None:
            sense, estimate = measured[field.name]
            outcome, reason = _outcome(sense, limit, estimate)
            checks.append(
                Check(
                    name=field.name,
                    limit=limit,
                    sense=sense,
                    measured=estimate,
                    outcome=outcome,
                    reason=reason,
                )
            )
    return Verdict(tuple(checks))


def _measured(m: Measurement) -> dict[str, tuple[Literal["at most", "at least"], Estimate | None]]:
    size = m.size_bytes / 1e6
    return {
        "p50_ms": ("at most", m.latency.p50),
        "p90_ms": ("at most", m.latency.p90),
        "p99_ms": ("at most", m.latency.p99),
        "size_mb": ("at most", Estimate(size, size, size)),
        "top1": ("at least", m.accuracy.top1),
        "mean_recall": ("at least", m.accuracy.mean_recall),
        "rare_recall": ("at least", m.accuracy.rare_recall),
        "worst_recall": ("at least", m.accuracy.worst_recall),
    }


def _outcome(sense: str, limit: float, estimate: Estimate | None) -> tuple[Outcome, str]:
    if estimate is None:
        return "inconclusive", "no test images of these classes"
    inside = estimate.high <= limit if sense == "at most" else estimate.low >= limit
    outside = estimate.low > limit if sense == "at most" else estimate.high < limit
    if inside or outside:
        return ("passed", "") if inside else ("failed", "")
    what = "measurements" if sense == "at most" else "test images"
    return "inconclusive", f"the limit lies within the 95 % interval: more {what} would tell"
