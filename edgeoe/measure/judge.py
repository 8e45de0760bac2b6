"""Measurement and budget -> verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from edgeoe.measure.quantity import Quantity, limited_quantities
from edgeoe.records.measurement import Check, Estimate, Measurement, Outcome, Verdict

__all__ = ["MIN_AGREEMENT", "UNLIMITED", "judge"]

_UNCLEAR: Outcome = "inconclusive"
MIN_AGREEMENT = 0.95  # of the artifact with its student on the golden images: less means a broken build
UNLIMITED = ("golden_agreement", "device")  # checks that do not come from the budget


def judge(
    measurement: Measurement, budget: Mapping[str, float], *, origins: Mapping[str, str] = MappingProxyType({})
) -> Verdict:
    """Check `measurement` against each limit of `budget`, and that the artifact agrees with its student.

    A check is passed or failed only if the whole 95 % interval lies on one side of the limit, else it is inconclusive.
    A limit on latency or throughput is inconclusive, with the reason, if the machine was too noisy. A measurement
    without figures from the device is inconclusive whatever its budget.

    budget: limits by quantity.
    origins: options that limits are from, by quantity; the others are the profile's.
    Raises ConfigError for an unknown quantity.
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
    for name, quantity in limited_quantities(budget).items():
        check = _check(name, quantity, budget[name], measurement)
        checks.append(replace(check, origin=origins.get(name, "")))
    return Verdict(tuple(checks))


def _check(name: str, quantity: Quantity, limit: float, m: Measurement) -> Check:
    measured = quantity.estimate(m)
    if measured is None:
        outcome, reason = _UNCLEAR, quantity.unknown(m)
    elif quantity.noisy and m.speed and m.speed.noise:
        outcome, reason = _UNCLEAR, "; ".join(m.speed.noise)
    else:
        outcome, reason = _outcome(quantity.sense, limit, measured, more=quantity.more)
    return Check(name=name, limit=limit, sense=quantity.sense, measured=measured, outcome=outcome, reason=reason)


def _outcome(sense: str, limit: float, estimate: Estimate, *, more: str) -> tuple[Outcome, str]:
    inside = estimate.high <= limit if sense == "at most" else estimate.low >= limit
    outside = estimate.low > limit if sense == "at most" else estimate.high < limit
    if inside or outside:
        return ("passed", "") if inside else ("failed", "")
    return "inconclusive", f"the limit lies within the 95 % interval: more {more} would tell"
