"""Two artifacts side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from edgeoe.records.measurement import Estimate, Outcome

__all__ = ["AccuracyChange", "Change", "Comparison", "LatencyChange"]

Change = Literal["regressed", "improved", "no worse", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyChange:
    """One quantity of two artifacts, lower being better.

    ratio: new / base. n: pairs of fresh processes, or the fewer processes of the two where they were not paired.
    """

    quantity: Literal["p50", "p99"]
    base_ms: float
    new_ms: float
    ratio: Estimate
    p_value: float
    tolerance: float
    n: int
    change: Change
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyChange:
    """How often two artifacts are right on the same test images.

    subject: "top-1" or a class. only_base, only_new: images that this one alone gets right. difference: share that new
    gets right less that of base.
    """

    subject: str
    images: int
    only_base: int
    only_new: int
    difference: Estimate
    p_value: float
    tolerance: float
    change: Change
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two artifacts on one target.

    how: interleaved, measured here one against the other; stored, from samples taken earlier. outcome: what a gate
    makes of it. notes: what the reader should know besides.
    """

    target: str
    base: str
    new: str
    how: Literal["interleaved", "stored"]
    latency: tuple[LatencyChange, ...]
    accuracy: tuple[AccuracyChange, ...]
    outcome: Outcome
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)
