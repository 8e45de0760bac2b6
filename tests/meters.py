"""A meter of a budget that measures nothing: latency follows the MACs, size the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from torch import nn

from edgeoe.methods.meter import Variants
from edgeoe.pruning.prune import count_macs, count_params
from edgeoe.records.budget import Limit
from edgeoe.settings import CompressSettings
from edgeoe.stages.budget import budget_limits
from edgeoe.targets.profile import Target

__all__ = ["FP32_MS", "MacsMeter", "count_instead"]

FP32_MS = 0.5  # of any teacher in fp32


@dataclass
class MacsMeter:
    """A million MACs take one millisecond; a million parameters are one megabyte.

    asked: {method of this class: how often it was called}.
    """

    limits: tuple[Limit, ...]
    shape: tuple[int, int, int] = (3, 16, 16)
    asked: dict[str, int] = field(default_factory=dict)
    kept_fp32: dict[str, tuple[str, ...]] = field(default_factory=dict)

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


def count_instead(
    monkeypatch: pytest.MonkeyPatch, *, kept_fp32: Mapping[str, tuple[str, ...]] | None = None
) -> list[tuple[str, ...]]:
    """Let `compress` measure budgets with `MacsMeter`. Returns a list that gets the targets of each compression.

    kept_fp32: {variant of an int8 graph: layers that stay fp32 in it}.
    """
    compressions: list[tuple[str, ...]] = []

    def meter(
        teacher: object, settings: CompressSettings, targets: Sequence[Target], *_: object, **__: object
    ) -> MacsMeter:
        compressions.append(tuple(target.name for target in targets))
        return MacsMeter(tuple(budget_limits(settings, targets, lambda _: FP32_MS)), kept_fp32=dict(kept_fp32 or {}))

    monkeypatch.setattr("edgeoe.stages.compress.BudgetMeter", meter)
    return compressions
