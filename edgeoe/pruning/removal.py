"""Removal of channels from a network: tensors shrink, and so does every attribute that counts channels."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeoe.pruning.attention import ExplicitAttention, with_explicit_attention
from edgeoe.pruning.caches import without_caches
from edgeoe.pruning.groups import Group
from edgeoe.pruning.recurrent_rules import RECURRENT, gates_of
from edgeoe.pruning.slots import Slot

__all__ = ["Dropped", "is_counted", "set_tensor", "without_blocks", "without_channels"]

_COUNTED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, *RECURRENT)


class Dropped(nn.Identity):
    """Stands in for a block that was dropped: passes its first input on, and takes whatever else the block took."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002, ARG002 - of the base class
        return input


def without_channels(model: nn.Module, groups: Iterable[Group], removed: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of `model` without some channels, every attribute that counts them corrected.

    groups: all groups of `model`.
    removed: {group: units to remove}.
    """
    student = with_explicit_attention(copy.deepcopy(model))
    pruning = [group for group in groups if removed.get(group.name)]
    pruned: dict[Slot, set[int]] = {}
    for group in pruning:
        for slot, rows in group.slots.items():
            pruned.setdefault(slot, set()).update(index for channel in removed[group.name] for index in rows[channel])
        for slot, rows_scaled in group.scaled.items():
            share = 1 - len(removed[group.name]) / len(group.order)
            _scale(student.get_submodule(slot.module), slot, rows_scaled, share)
    for (name, attribute), by in _lowered(student, pruning, removed).items():
        _lower(student.get_submodule(name), attribute, by)
    shared = _sharing(student)
    for slot, indices in pruned.items():
        _remove(student, shared[slot[:2]], slot, indices)
    for name in {name for slot in pruned for name, _ in shared[slot[:2]]}:
        _update_sizes(student.get_submodule(name))
    return without_caches(student)


def without_blocks(model: nn.Module, blocks: Iterable[str]) -> nn.Module:
    """A copy of `model` in which `blocks` pass their input on unchanged."""
    student = copy.deepcopy(model)
    for name in blocks:
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, Dropped().train(model.training))
    return student


def _lowered(
    model: nn.Module, groups: Sequence[Group], removed: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, str], int]:
    """{(module, attribute): by how much it falls}.

    Groups that cross, as heads and the dimensions of heads do, share channels, which fall once.
    """
    parts: dict[tuple[str, str], list[tuple[Group, int]]] = {}
    for group in groups:
        for name, attribute, each in group.attributes:
            parts.setdefault((name, attribute), []).append((group, each * len(removed[group.name])))
    lowered = {}
    for (name, attribute), counts in parts.items():
        old = _value(model.get_submodule(name), attribute)
        shared = sum(
            by * other_by // old
            for (group, by), (other, other_by) in itertools.combinations(counts, 2)
            if group.shares_channels(other)
        )
        lowered[name, attribute] = sum(by for _, by in counts) - shared
    return lowered


def _value(module: nn.Module, attribute: str) -> int:
    attribute, _, place = attribute.partition(".")
    value = getattr(module, attribute)
    return int(value[int(place)] if place else value)


def _lower(module: nn.Module, attribute: str, by: int) -> None:
    """Subtract `by` from an attribute, or from one item of a tuple: "shape.0"."""
    attribute, _, place = attribute.partition(".")
    old = getattr(module, attribute)
    if place:
        setattr(module, attribute, tuple(value - by * (at == int(place)) for at, value in enumerate(old)))
    else:
        setattr(module, attribute, old - by)


def _scale(module: nn.Module, slot: Slot, indices: Sequence[int], share: float) -> None:
    tensor = getattr(module, slot.tensor).data
    tensor[torch.tensor(indices, device=tensor.device)] *= math.sqrt(share)


def _sharing(model: nn.Module) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """{(module, tensor): every (module, tensor) that is the same object, itself included} of all that modules hold."""
    same: dict[int, list[tuple[str, str]]] = {}
    for name, module in model.named_modules():
        for held in (module._parameters, module._buffers, vars(module)):
            for key, value in held.items():
                if isinstance(value, Tensor):
                    same.setdefault(id(value), []).append((name, key))
    return {place: places for places in same.values() for place in places}


def _remove(model: nn.Module, places: Iterable[tuple[str, str]], slot: Slot, indices: set[int]) -> None:
    """Remove `indices` from the tensor at `slot`, in all `places` that hold it.

    A buffer that was not persistent, or a tensor that was none, becomes a persistent buffer: what is left of it can't
    be computed when the architecture is rebuilt.
    """
    old = getattr(model.get_submodule(slot.module), slot.tensor)
    kept = torch.tensor([i for i in range(old.shape[slot.axis]) if i not in indices], device=old.device)
    new = old.detach().index_select(slot.axis, kept)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    for name, key in places:
        set_tensor(model.get_submodule(name), key, new)


def set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Give `module` a parameter, or a tensor that becomes a persistent buffer."""
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, tensor)
        return
    vars(module).pop(name, None)
    module.register_buffer(name, tensor)


def _update_sizes(module: nn.Module) -> None:
    """Set the attributes in which torch's own layers store the sizes of their tensors."""
    weight = getattr(module, "weight", None)
    if isinstance(module, ExplicitAttention):
        module.update_sizes()
    elif isinstance(module, nn.modules.conv._ConvNd):
        rows, columns = module.weight.shape[0], module.weight.shape[1] * module.groups
        module.out_channels, module.in_channels = (columns, rows) if module.transposed else (rows, columns)
    elif isinstance(module, RECURRENT):
        _update_recurrent(module)
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


def _update_recurrent(module: nn.Module) -> None:
    """Set the sizes of a recurrent layer, or of a cell of one."""
    tensors = dict(module.named_parameters(recurse=False))
    first = tensors["weight_ih" if isinstance(module, nn.RNNCellBase) else "weight_ih_l0"]
    setattr(module, "input_size", first.shape[1])  # noqa: B010 - which of both classes it is
    setattr(module, "hidden_size", len(first) // gates_of(module))  # noqa: B010
    if "weight_hr_l0" in tensors:
        setattr(module, "proj_size", len(tensors["weight_hr_l0"]))  # noqa: B010


def is_counted(module: nn.Module, attribute: str) -> bool:
    """Whether `without_channels` sets that attribute from the sizes of the module's tensors."""
    if isinstance(module, ExplicitAttention):
        return attribute != "num_heads"
    return attribute == "normalized_shape" or isinstance(module, _COUNTED)
