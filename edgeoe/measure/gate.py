"""Many changes -> one outcome: corrected for their number, and what a CI gate makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edgeoe.measure.decision import ratio_text
from edgeoe.records.comparison import AccuracyChange, LatencyChange
from edgeoe.records.measurement import Estimate, Outcome

__all__ = ["gate", "holm", "with_holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given.

    To take all below alpha for real is wrong about any of them with a probability of at most alpha. Source: Holm, 1979.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def with_holm(changes: Sequence[LatencyChange], alpha: float = 0.002) -> list[LatencyChange]:
    """`changes` of several targets, of which none is called changed for there being many.

    A regressed one whose p-value adjusted by `holm` isn't below alpha becomes inconclusive, an improved one no worse;
    p_value stays that of its own test. To have the rounds for it, measure k targets with fewest_rounds(alpha / k).
    """
    return [
        change if p < alpha else _unsure(change, f"{p:.2g} among {len(changes)} comparisons, not below {alpha:g}")
        for change, p in zip(changes, holm([change.p_value for change in changes]), strict=True)
    ]


def _unsure(change: LatencyChange, adjusted: str) -> LatencyChange:
    if change.change == "improved":
        return dataclasses.replace(change, change="no worse")
    if change.change != "regressed":
        return change
    reason = f"{ratio_text(change.ratio)}, and p = {change.p_value:.2g} is {adjusted}: more rounds would tell"
    return dataclasses.replace(change, change="inconclusive", reason=reason)


def gate(latency: Sequence[LatencyChange], accuracy: Sequence[AccuracyChange]) -> tuple[Outcome, str]:
    """What a CI gate makes of one target's changes, and why.

    Failed if anything regressed, be it p99 or one rare class. Inconclusive if p50 or top-1 is, or if there is nothing
    to go by. Else passed: an inconclusive p99 or rare class is reported and doesn't hold up the gate, as with 1 % of
    the calls, or a dozen images of a class, hardly any honest change could ever be shown to be harmless.
    """
    rows = [
        *((change.change, change.quantity, _latency_text(change)) for change in latency),
        *((change.change, change.subject, _accuracy_text(change)) for change in accuracy),
    ]
    regressed = [text for change, _, text in rows if change == "regressed"]
    unsure = [(subject, text) for change, subject, text in rows if change == "inconclusive"]
    if regressed:
        return "failed", "; ".join(regressed)
    if not rows:
        return "inconclusive", "nothing was compared"
    holding = [text for subject, text in unsure if subject in ("p50", "top-1")]
    return ("inconclusive", "; ".join(holding)) if holding else ("passed", "; ".join(text for _, text in unsure))


def _latency_text(change: LatencyChange) -> str:
    what = change.reason or f"{ratio_text(change.ratio)}, allowed {1 + change.tolerance:g}"
    return f"{change.quantity} {change.change}: {what}"


def _accuracy_text(change: AccuracyChange) -> str:
    points = Estimate(*(100 * end for end in (change.difference.value, change.difference.low, change.difference.high)))
    what = f"{points.value:+.2g} points ({points.low:+.2g} to {points.high:+.2g}), allowed {-100 * change.tolerance:g}"
    return f"{change.subject} {change.change}: {change.reason or what}"
