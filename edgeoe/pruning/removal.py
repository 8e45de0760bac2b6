"""Taking channels out of a network: tensors become smaller, and so does all that counts what they hold."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from edgeoe.pruning.groups import Group
from edgeoe.pruning.slots import Slot

__all__ = ["is_counted", "without_caches", "without_channels"]

_COUNTED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def without_channels(model: nn.Module, groups: Iterable[Group], removed: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of `model` without those channels of `groups`, and with every attribute that counts them put right."""
    student = without_caches(copy.deepcopy(model))
    gone: dict[Slot, set[int]] = {}
    for group in groups:
        channels = removed.get(group.name, ())
        if not channels:
            continue
        for slot, rows in group.slots.items():
            gone.setdefault(slot, set()).update(index for channel in channels for index in rows[channel])
        for name, attribute, each in group.attributes:
            _lower(student.get_submodule(name), attribute, each * len(channels))
    for slot, indices in gone.items():
        _cut(student.get_submodule(slot.module), slot, indices)
    for name in {slot.module for slot in gone}:
        _count_anew(student.get_submodule(name))
    return student


def without_caches(model: nn.Module) -> nn.Module:
    """`model`, in which nothing is left of what an earlier pass computed from its parameters and kept."""
    for module in model.modules():
        for name, value in vars(module).items():
            if "cache" in name and isinstance(value, dict):  # as timm's LeViT calls it
                value.clear()
    return model


def _lower(module: nn.Module, attribute: str, by: int) -> None:
    """Take that off an attribute, or off one place of a tuple: "shape.0"."""
    attribute, _, place = attribute.partition(".")
    old = getattr(module, attribute)
    if place:
        setattr(module, attribute, tuple(value - by * (at == int(place)) for at, value in enumerate(old)))
    else:
        setattr(module, attribute, old - by)


def _cut(module: nn.Module, slot: Slot, indices: set[int]) -> None:
    old = getattr(module, slot.tensor)
    left = torch.tensor([i for i in range(old.shape[slot.axis]) if i not in indices], device=old.device)
    new = old.detach().index_select(slot.axis, left)
    if isinstance(old, nn.Parameter):
        setattr(module, slot.tensor, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, slot.tensor, new)


def _count_anew(module: nn.Module) -> None:
    """Set the attributes in which torch's own layers keep the sizes of their tensors."""
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
    """Whether `_count_anew` sets it."""
    return attribute == "normalized_shape" or isinstance(module, _COUNTED)
