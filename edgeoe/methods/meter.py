"""What a cut asks about a budget: the limits, and what networks cost on the targets. `stages/` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from edgeoe.records.budget import Limit

__all__ = ["Meter", "Variants"]

Variants = Mapping[str, Callable[[], "nn.Module"]]  # name -> a function that makes the network


class Meter(Protocol):
    """Measures networks on the runtimes of the targets, in their precision.

    limits: all of the budget; less is better of what they limit, see `Limit.cost`.
    kept_fp32: {variant of an int8 graph: layers that stay fp32 in it}; they are measured so.
    """

    @property
    def limits(self) -> tuple[Limit, ...]: ...

    @property
    def kept_fp32(self) -> Mapping[str, tuple[str, ...]]: ...

    def follows_latency(self, limit: Limit) -> bool:
        """Whether the quantity falls with the latency; else it falls with the number of parameters."""
        ...

    def latencies(self, variants: Variants) -> dict[str, dict[str, float]]:
        """{target: {variant: p50 in ms}} on each target with a limit that follows the latency.

        variants: the teacher is one of them. Those that were measured before are not made again.
        """
        ...

    def costs(self, model: nn.Module, *, final: bool) -> tuple[float | None, ...]:
        """The cost of the artifact of `model` for each limit, at the end of its interval that a verdict reads.

        final: measured as `validate` does; else in less time, beside the teacher. The teacher comes first, and final.
        Returns None for the limits of a target that is another machine.
        """
        ...
