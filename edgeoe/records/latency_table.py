"""The record of latencies that were measured of a network and its variants on one machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgeoe.bounds import Positive
from edgeoe.targets.profile import Target

__all__ = ["LatencyTable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Latencies of a teacher and of networks in which one kind of part is pruned.

    network: sha256 of the teacher's graph without its weights.
    target: profile of the device; latencies are in its precision and batch size.
    environment: of the machine.
    latencies_ms: {variant: p50}, each measured in turns with the teacher, in milliseconds.
    """

    network: str
    target: Target
    environment: dict[str, Any]
    latencies_ms: dict[str, Positive] = field(default_factory=dict)
