"""L1 norms of units: what says, without any image, which of them matter least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgeoe.pruning.slots import Slot

__all__ = ["unit_norms"]


def unit_norms(model: nn.Module, slots: Mapping[Slot, Sequence[Sequence[int]]]) -> Tensor:
    """(units,) L1 norm of each unit, as a mean over the weights that hold it.

    slots: {axis of a weight: the indices of each unit along it}; at least one.
    """
    norms = []
    for slot, rows in slots.items():
        sums = getattr(model.get_submodule(slot.module), slot.tensor).detach().movedim(slot.axis, 0)
        norms.append(sums.flatten(1).abs().sum(1)[torch.tensor(rows)].sum(1))
    return torch.stack(norms).mean(0)
