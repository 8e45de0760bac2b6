"""A student that stays as it was cut."""

from __future__ import annotations

from torch import nn

from edgeoe.methods import Bench, Fit
from edgeoe.pruning.prune import Pruned
from edgeoe.settings import CompressSettings

__all__ = ["Nothing"]


class Nothing:
    """Trains and solves nothing."""

    Options = None

    def __init__(self, settings: CompressSettings) -> None: ...

    def recover(self, teacher: nn.Module, pruned: Pruned, bench: Bench) -> Fit:  # noqa: ARG002 - as every recovery
        return Fit()
