"""What a cut asks about a budget: the limits, and what networks cost on the targets. `stages/` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from edgeoe.records.budget import Limit

__all__ = ["TEACHER", "Meter", "Variants"]

TEACHER = "teacher"  # the variant in which nothing is pruned
Variants = Mapping[str, Callable[[], "nn.Module"]]  # name -> a function that makes the network


class Meter(Protocol):
    """Measures networks on the runtimes of the targets, in their precision.

    limits: all of the budget.
    """

    limits: tuple[Limit, ...]

    def follows_latency(self, limit: Limit) -> bool:
        """Whether the quantity falls with the latency; else it falls with the number of parameters."""
        ...

    def latencies(self, variants: Variants) -> dict[str, dict[str, float]]:
        """{target: {variant: p50 in ms}} on each target whose latency or throughput is limited; measured once, then
        read from a cache.

        variants: the teacher is one of them. Only those that are not in the cache are made.
        """
        ...

    def costs(self, model: nn.Module) -> tuple[float, ...] | None:
        """The cost of the artifact of `model` for each limit, at the end of its interval that a verdict reads.

        Returns None if a target is another machine.
        """
        ...
