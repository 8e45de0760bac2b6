"""A meter of a budget that measures nothing: latency follows the MACs, size the parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from edgeoe.methods.meter import Variants
from edgeoe.pruning.prune import count_macs, count_params
from edgeoe.records.budget import Limit

__all__ = ["MacsMeter"]


@dataclass
class MacsMeter:
    """A million MACs take one millisecond; a million parameters are one megabyte.

    asked: {method of this class: how often it was called}.
    """

    limits: tuple[Limit, ...]
    shape: tuple[int, int, int] = (3, 16, 16)
    asked: dict[str, int] = field(default_factory=dict)

    def follows_latency(self, limit: Limit) -> bool:
        return limit.quantity == "p50_ms"

    def latencies(self, variants: Variants) -> dict[str, dict[str, float]]:
        self._note("latencies")
        targets = {limit.target for limit in self.limits if self.follows_latency(limit)}
        return {target: {name: self._ms(model()) for name, model in variants.items()} for target in targets}

    def costs(self, model: nn.Module, *, final: bool) -> tuple[float | None, ...]:
        self._note("final costs" if final else "costs")
        return tuple(
            self._ms(model) if self.follows_latency(limit) else count_params(model) / 1e6 for limit in self.limits
        )

    def _ms(self, model: nn.Module) -> float:
        return count_macs(model, self.shape) / 1e6

    def _note(self, name: str) -> None:
        self.asked[name] = self.asked.get(name, 0) + 1
