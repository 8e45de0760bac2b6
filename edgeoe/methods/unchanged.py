"""none: the teacher as it is, so that every stage after compression can be run on it as a baseline."""

from __future__ import annotations

import copy

from torch import nn

from edgeoe.errors import ConfigError
from edgeoe.methods import About, Bench, Compressed, Fit
from edgeoe.pruning.prune import Pruned, count_macs
from edgeoe.settings import CompressSettings

__all__ = ["Unchanged"]


class Unchanged:
    """Prunes and trains nothing. Raises ConfigError if a share below 1 was asked for."""

    about = About(
        does="nothing: the teacher itself, as a baseline for every later stage",
        needs="nothing",
        reference="",
    )

    def __init__(self, settings: CompressSettings) -> None:
        if settings.goal.share != 1:
            raise ConfigError(
                f"--method none keeps the whole teacher. Leave {settings.goal} out, or choose another --method."
            )

    def compress(self, teacher: nn.Module, workbench: Bench) -> Compressed:
        pruned = Pruned(
            model=copy.deepcopy(teacher),
            removed={},
            groups=(),
            macs=count_macs(teacher, workbench.shape),
            macs_kept=1.0,
            params_kept=1.0,
        )
        return Compressed(pruned, Fit())
