"""A meter whose figures are kept in saved work: what is measured in milliseconds can't be measured the same twice."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import nn

from edgeoe.codec import from_json, to_json
from edgeoe.methods.meter import Meter, Variants
from edgeoe.models.in_memory import tensors_sha256
from edgeoe.records.budget import Limit
from edgeoe.run.saved_work import SavedWork

__all__ = ["ResumableMeter"]


class ResumableMeter:
    """Measures with `meter` what an interrupted compression has not measured.

    work: what it has measured.
    """

    def __init__(self, meter: Meter, work: SavedWork) -> None:
        self._meter, self._work = meter, work
        self._calls = 0

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        known = self._work.kept("limits", lambda: [to_json(limit) for limit in self._meter.limits])
        return tuple(from_json(Limit, limit) for limit in known)

    @cached_property
    def kept_fp32(self) -> Mapping[str, tuple[str, ...]]:
        known = self._work.kept("layers in fp32", lambda: {**self._meter.kept_fp32})
        return {variant: tuple(layers) for variant, layers in known.items()}

    def follows_latency(self, limit: Limit) -> bool:
        return self._meter.follows_latency(limit)

    def latencies(self, variants: Variants) -> dict[str, dict[str, float]]:
        return self._work.kept("latency tables", lambda: self._meter.latencies(variants))

    def costs(self, model: nn.Module, *, final: bool) -> tuple[float | None, ...]:
        key = f"costs {self._calls}, {'final' if final else 'quick'}, of {tensors_sha256(model.state_dict())}"
        self._calls += 1

        return tuple(self._work.kept(key, lambda: self._meter.costs(model, final=final)))
