"""Nothing is pruned, so that every stage after compression can be run on the teacher as a baseline."""

from __future__ import annotations

import copy

from torch import nn

from edgeoe.errors import ConfigError
from edgeoe.methods import Bench
from edgeoe.pruning.prune import Pruned, count_macs
from edgeoe.settings import CompressSettings

__all__ = ["Nothing"]


class Nothing:
    """Prunes nothing. Raises ConfigError if a share below 1 is asked for."""

    Options = None
    measures_latency = False

    def __init__(self, settings: CompressSettings) -> None:
        if settings.goal.share != 1:
            raise ConfigError(
                f"--method none keeps the whole teacher. Leave {settings.goal} out, or choose another --method."
            )

    def prune(self, teacher: nn.Module, bench: Bench) -> Pruned:
        return Pruned(
            model=copy.deepcopy(teacher),
            removed={},
            groups=(),
            macs=count_macs(teacher, bench.shape),
            macs_kept=1.0,
            params_kept=1.0,
        )
