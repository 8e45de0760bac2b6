"""What a teacher takes of what a budget limits, and what each part of it saves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edgeoe.methods.cuts.parts import Parts
from edgeoe.methods.meter import Meter
from edgeoe.pruning.programme import Resource
from edgeoe.pruning.prune import count_params
from edgeoe.records.latency_table import TEACHER

__all__ = ["Stock"]


@dataclass(frozen=True, slots=True)
class Stock:
    """What the teacher takes of what is limited.

    costs: for each limit.
    resources: what the choices save of each: milliseconds on each target, and parameters.
    totals: what the teacher takes of the resource of each limit.
    drawn: the resource, by index, that each limit draws on.
    """

    costs: tuple[float, ...]
    resources: tuple[Resource, ...]
    totals: tuple[float, ...]
    drawn: tuple[int, ...]

    @classmethod
    def measure(cls, teacher: nn.Module, parts: Parts, meter: Meter) -> Stock:
        """Measure the teacher, and what each part of it costs."""
        measured = meter.costs(teacher, final=True)
        tables = meter.latencies(parts.variants())
        resources = {target: parts.latency(table) for target, table in tables.items()} | {"": parts.parameters()}
        whole = {target: table[TEACHER] for target, table in tables.items()} | {"": float(count_params(teacher))}
        keys = [limit.target if meter.follows_latency(limit) else "" for limit in meter.limits]
        return cls(
            costs=tuple(whole[key] if cost is None else cost for key, cost in zip(keys, measured, strict=True)),
            resources=tuple(resources.values()),
            totals=tuple(whole[key] for key in keys),
            drawn=tuple([*resources].index(key) for key in keys),
        )
