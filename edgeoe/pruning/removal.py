"""Removal of channels from a network: tensors shrink, and so does every attribute that counts channels."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeoe.pruning.groups import Group
from edgeoe.pruning.slots import Slot

__all__ = ["Dropped", "is_counted", "without_blocks", "without_caches", "without_channels"]

_COUNTED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class Dropped(nn.Identity):
    """Stands in for a block that was dropped: passes its first input on, and takes whatever else the block took."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002, ARG002 - of the base class
        return input


def without_channels(model: nn.Module, groups: Iterable[Group], removed: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of `model` without some channels, every attribute that counts them corrected.

    groups: all groups of `model`.
    removed: {group: units to remove}.
    """
    student = without_caches(copy.deepcopy(model))
    pruned: dict[Slot, set[int]] = {}
    for group in groups:
        channels = removed.get(group.name, ())
        if not channels:
            continue
        for slot, rows in group.slots.items():
            pruned.setdefault(slot, set()).update(index for channel in channels for index in rows[channel])
        for name, attribute, each in group.attributes:
            _lower(student.get_submodule(name), attribute, each * len(channels))
    for slot, indices in pruned.items():
        _remove(student.get_submodule(slot.module), slot, indices)
    for name in {slot.module for slot in pruned}:
        _update_sizes(student.get_submodule(name))
    return student


def without_blocks(model: nn.Module, blocks: Iterable[str]) -> nn.Module:
    """A copy of `model` in which `blocks` pass their input on unchanged."""
    student = copy.deepcopy(model)
    for name in blocks:
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, Dropped().train(model.training))
    return student


def without_caches(model: nn.Module) -> nn.Module:
    """`model`, in place, without what an earlier pass computed from its parameters and cached."""
    for module in model.modules():
        for name, value in vars(module).items():
            if "cache" in name and isinstance(value, dict):  # as in timm's LeViT
                value.clear()
    return model


def _lower(module: nn.Module, attribute: str, by: int) -> None:
    """Subtract `by` from an attribute, or from one item of a tuple: "shape.0"."""
    attribute, _, place = attribute.partition(".")
    old = getattr(module, attribute)
    if place:
        setattr(module, attribute, tuple(value - by * (at == int(place)) for at, value in enumerate(old)))
    else:
        setattr(module, attribute, old - by)


def _remove(module: nn.Module, slot: Slot, indices: set[int]) -> None:
    old = getattr(module, slot.tensor)
    kept = torch.tensor([i for i in range(old.shape[slot.axis]) if i not in indices], device=old.device)
    new = old.detach().index_select(slot.axis, kept)
    if isinstance(old, nn.Parameter):
        setattr(module, slot.tensor, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, slot.tensor, new)


def _update_sizes(module: nn.Module) -> None:
    """Set the attributes in which torch's own layers store the sizes of their tensors."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd):
        module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        tensor = module.running_mean if weight is None else weight
        module.num_features = module.num_features if tensor is None else len(tensor)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = module.num_channels if weight is None else len(module.weight)
    elif isinstance(weight, Tensor) and len(getattr(module, "normalized_shape", ())) == weight.dim():
        setattr(module, "normalized_shape", tuple(weight.shape))  # noqa: B010 - whatever norm it is
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


def is_counted(module: nn.Module, attribute: str) -> bool:
    """Whether `without_channels` sets that attribute from the sizes of the module's tensors."""
    return attribute == "normalized_shape" or isinstance(module, _COUNTED)
