"""Records of a comparison of two artifacts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from edgeoe.records.measurement import Estimate, Outcome

__all__ = ["AccuracyChange", "Change", "Comparison", "LatencyChange", "Origin"]

Origin = Literal["measured here", "signed", "as reported"]  # who says so: this machine, a key, or only the result
Change = Literal["regressed", "improved", "no worse", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyChange:
    """One latency of two artifacts; lower is better.

    ratio: new / base.
    n: number of pairs of fresh processes; if not paired, the smaller number of processes of the two.
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
    """Accuracy of two artifacts on the same test images.

    subject: "top-1" or a class.
    only_base: images that only base classifies correctly.
    only_new: images that only new classifies correctly.
    difference: accuracy of new minus that of base.
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
    """Comparison of two artifacts on one target.

    how: interleaved, measured here in alternating processes; or stored, from earlier results.
    latency_from, accuracy_from: whose word the figures are.
    outcome: verdict of a gate.
    notes: further remarks for the reader.
    """

    target: str
    base: str
    new: str
    how: Literal["interleaved", "stored"]
    latency_from: Origin
    accuracy_from: Origin
    latency: tuple[LatencyChange, ...]
    accuracy: tuple[AccuracyChange, ...]
    outcome: Outcome
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)
