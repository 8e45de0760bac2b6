"""What pruning half of a group saves, without training and mostly without pruning anything."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeoe.pruning.groups import Group
from edgeoe.pruning.kinds import group_kind
from edgeoe.pruning.macs import counting_macs
from edgeoe.pruning.prune import count_macs, count_params
from edgeoe.pruning.removal import without_channels
from edgeoe.pruning.slots import Slot
from edgeoe.pruning.state import LAYERS

__all__ = ["Saving", "Savings", "macs_by_module", "odd_factor", "own_macs"]


@dataclass(frozen=True, slots=True)
class Saving:
    """Shares of the whole network's MACs and parameters."""

    macs: float
    params: float


class Savings:
    """What half of each group of `model` saves.

    model: in eval mode; it is not changed.
    shape: (C, H, W) of an image.
    groups: all groups of `model`.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int], groups: Sequence[Group]) -> None:
        self._model, self._shape, self._groups = model, shape, groups
        self.macs_of = macs_by_module(model, shape)
        self.macs, self.params = self.macs_of[""], count_params(model)
        self._with_products = _modules_with_products(model, self.macs_of)

    def kind(self, group: Group) -> Hashable:
        """What groups have in common that save the same."""
        return group_kind(self._model, group, self.macs_of)

    def of_half(self, group: Group) -> Saving:
        """What half of the units of `group` save.

        The MACs of a layer fall as its weights do. Where channels also pass products of activations (attention), or
        weights that are computed, the MACs of a pruned network are counted.
        """
        remaining: dict[tuple[str, str], float] = {}
        for slot, rows in group.slots.items():
            pruned = len(rows) * len(rows[0]) / self._tensor(slot).shape[slot.axis] / 2
            remaining[slot[:2]] = remaining.get(slot[:2], 1.0) * (1 - pruned)
        params = sum((1 - part) * self._parameters(*key) for key, part in remaining.items())
        if all(self._follows_weight(slot) for slot in group.slots):
            macs = sum(
                (1 - part) * self.macs_of.get(key[0], 0) for key, part in remaining.items() if key[1] == "weight"
            )
        else:
            macs = (self.macs - count_macs(self.without_half([group]), self._shape)) * odd_factor(group)
        return Saving(macs / self.macs, params / self.params)

    def without_half(self, groups: Iterable[Group]) -> nn.Module:
        """A copy of the network without half of the units of `groups`, rounded down."""
        removed = {group.name: group.order[: len(group.order) // 2] for group in groups}
        return without_channels(self._model, self._groups, removed)

    def _follows_weight(self, slot: Slot) -> bool:
        """Whether the MACs at `slot` follow from the shape of a layer's weight."""
        if any(slot.module == name or slot.module.startswith(f"{name}.") or not name for name in self._with_products):
            return False
        return slot.tensor in ("weight", "bias") or not isinstance(self._model.get_submodule(slot.module), LAYERS)

    def _tensor(self, slot: Slot) -> Tensor:
        tensor: Tensor = getattr(self._model.get_submodule(slot.module), slot.tensor)
        return tensor

    def _parameters(self, module: str, name: str) -> int:
        """The size of a parameter; 0 for a buffer."""
        parameter = dict(self._model.get_submodule(module).named_parameters(recurse=False)).get(name)
        return 0 if parameter is None else parameter.numel()


def odd_factor(group: Group) -> float:
    """Half of the units of `group`, divided by the units that `without_half` removes: above 1 for an odd number."""
    return len(group.order) / 2 / (len(group.order) // 2)


@torch.no_grad()
def macs_by_module(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, int]:
    """{module: MACs for one image (C, H, W)} of each module that is called, its children included; "" is the whole."""
    with counting_macs() as counter:
        model(torch.zeros(1, *shape, device=next(model.parameters()).device))
    return {
        name.partition(".")[2]: sum(operations.values()) // 2 for name, operations in counter.get_flop_counts().items()
    }


def own_macs(macs_of: Mapping[str, int]) -> dict[str, int]:
    """{module: its MACs without those of its children}.

    macs_of: as `macs_by_module` returns it.
    """
    own = dict(macs_of)
    for name, macs in macs_of.items():
        parts = name.split(".")
        above = (".".join(parts[:end]) for end in reversed(range(len(parts))))
        if name:
            own[next(parent for parent in above if parent in macs_of)] -= macs
    return own


def _modules_with_products(model: nn.Module, macs_of: Mapping[str, int]) -> list[str]:
    """Modules other than layers that multiply and accumulate themselves, as attention does."""
    own = own_macs(macs_of)
    return [name for name, macs in own.items() if macs and not isinstance(model.get_submodule(name), LAYERS)]
