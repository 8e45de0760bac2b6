"""Changes -> the outcome of a CI gate, corrected for multiple comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edgeoe.measure.decision import ratio_text
from edgeoe.records.comparison import AccuracyChange, LatencyChange
from edgeoe.records.measurement import Estimate, Outcome

__all__ = ["gate", "holm", "with_holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """`p_values` adjusted for multiple comparisons, in the same order.

    Rejecting all below alpha keeps the family-wise error rate at most alpha. Source: Holm, 1979.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def with_holm(changes: Sequence[LatencyChange], alpha: float = 0.002) -> list[LatencyChange]:
    """`changes` of several targets, corrected for multiple comparisons.

    If the p-value adjusted by `holm` isn't below alpha, a regression becomes inconclusive, and an improvement no worse;
    p_value stays that of the single test. Enough rounds for k targets are fewest_rounds(alpha / k).
    """
    return [
        change if p < alpha else _unsure(change, f"{p:.2g} among {len(changes)} comparisons, not below {alpha:g}")
        for change, p in zip(changes, holm([change.p_value for change in changes]), strict=True)
    ]


def _unsure(change: LatencyChange, detail: str) -> LatencyChange:
    if change.change == "improved":
        return dataclasses.replace(change, change="no worse")
    if change.change != "regressed":
        return change
    reason = f"{ratio_text(change.ratio)}, and p = {change.p_value:.2g} is {detail}: more rounds would tell"
    return dataclasses.replace(change, change="inconclusive", reason=reason)


def gate(latency: Sequence[LatencyChange], accuracy: Sequence[AccuracyChange]) -> tuple[Outcome, str]:
    """The outcome of a CI gate for one target's changes, and the reason.

    Failed if anything regressed, even if it is only p99 or one rare class. Inconclusive if p50 or top-1 is, or if
    nothing was compared. Otherwise passed: an inconclusive p99 or rare class is reported without holding up the gate,
    since 1 % of the calls, or a dozen images of a class, can hardly show that a change is harmless.
    """
    rows = [
        *((change.change, change.quantity, _latency_text(change)) for change in latency),
        *((change.change, change.subject, _accuracy_text(change)) for change in accuracy),
    ]
    regressed = [text for change, _, text in rows if change == "regressed"]
    undecided = [(subject, text) for change, subject, text in rows if change == "inconclusive"]
    if regressed:
        return "failed", "; ".join(regressed)
    if not rows:
        return "inconclusive", "nothing was compared"
    blocking = [text for subject, text in undecided if subject in ("p50", "top-1")]
    return ("inconclusive", "; ".join(blocking)) if blocking else ("passed", "; ".join(text for _, text in undecided))


def _latency_text(change: LatencyChange) -> str:
    what = change.reason or f"{ratio_text(change.ratio)}, allowed {1 + change.tolerance:g}"
    return f"{change.quantity} {change.change}: {what}"


def _accuracy_text(change: AccuracyChange) -> str:
    points = Estimate(*(100 * end for end in (change.difference.value, change.difference.low, change.difference.high)))
    what = f"{points.value:+.2g} points ({points.low:+.2g} to {points.high:+.2g}), allowed {-100 * change.tolerance:g}"
    return f"{change.subject} {change.change}: {change.reason or what}"
