"""What convolutions do to channel labels: ordinary, transposed, deformable ones, and those with computed weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeoe.pruning.rules import Call
from edgeoe.pruning.state import TraceState, no_labels

__all__ = ["CONVOLUTION_RULES"]

_Owner = tuple[str, str]


def _convolution(state: TraceState, call: Call) -> Any:
    x, weight, groups = call.given["input"], call.given["weight"], call.given["groups"]
    transposed = call.given["transposed"]
    labels = state.labels(x)
    owner, scales = _owner_of_weight(state, weight)
    if owner is None:
        return None if labels is None else _with_computed_weights(state, call, labels)
    positions = range(2, x.dim())
    if labels is not None and state.sets.varies(labels, positions):
        if groups == 1 and math.prod(weight.shape[2:]) == 1 and not state.sets.varies(labels, [1]):
            return labels[:, :1].expand(call.shape)
        return state.refuse_mixed("a convolution along them", [labels], call.result)
    consumed = no_labels(x.shape[1:2]) if labels is None else state.sets.union_along(labels, [1])
    convolve = _convolve_transposed if transposed else _convolve
    produced = convolve(state, owner, consumed, call.shape[1], groups)
    for scale in scales:
        _unite_elements(state, scale, produced)
    return _biased(state, call, produced)


def _biased(state: TraceState, call: Call, produced: Tensor) -> Tensor:
    """Labels of the result of a convolution with outputs `produced`, which its bias has too."""
    state.attach(call.given.get("bias"), produced)
    return produced.view(1, -1, *([1] * (len(call.shape) - 2))).expand(call.shape)


def _unite_elements(state: TraceState, tensor: Tensor, channels: Tensor) -> None:
    """Unite the labels of `tensor`, if it has any, with those of `channels` (C,), C along its first axis."""
    elements = state.labels(tensor)
    if elements is not None:
        rows = elements.reshape(len(channels), -1)
        state.sets.union(rows, channels[:, None].expand_as(rows))


# Whose weight it is


def _owner_of_weight(state: TraceState, weight: Tensor) -> tuple[_Owner | None, list[Tensor]]:
    """The parameter that `weight` is or is computed from, and the layer's other parameters per output.

    Weights are computed where a layer standardises or scales them before use.
    """
    owner, module = state.owner(weight), state.running[-1] if state.running else None
    if owner is not None or module is None:
        return owner, []
    layer = state.model.get_submodule(module)
    if getattr(layer, "weight", None) is None or layer.weight.shape != weight.shape:
        return None, []
    parameters = layer.named_parameters(recurse=False)
    scales: list[Tensor] = [p for name, p in parameters if name not in ("weight", "bias") and len(p) == len(weight)]
    return (module, "weight"), scales


def _with_computed_weights(state: TraceState, call: Call, labels: Tensor) -> Any:
    """A convolution whose weight is no parameter of a layer: channels pass one that filters each by itself (blur)."""
    weight, groups = call.given["weight"], call.given["groups"]
    positions = range(2, labels.dim())
    if groups != labels.shape[1] or groups == 1 or state.sets.varies(labels, positions):
        return state.refuse_mixed("a convolution with computed weights", [labels], call.result)
    passed = state.sets.union_along(labels, [1]).repeat_interleave(call.shape[1] // groups)
    elements = state.labels(weight)
    if elements is not None and state.sets.varies(elements, [0]):
        _unite_elements(state, weight, passed if len(weight) == len(passed) else passed.view(groups, -1)[:, 0])
    elif elements is not None:
        state.sets.refuse(elements, "all channels are filtered with them")
    return _biased(state, call, passed)


# Groups of channels


def _convolve(state: TraceState, owner: _Owner, consumed: Tensor, outputs: int, groups: int) -> Tensor:
    """Labels of the `outputs` of a convolution with labels `consumed` along its inputs; its weight is (O, I/G, ...)."""
    if groups == 1:
        state.consume(owner, 1, consumed)
        return state.produce(owner, state.sets.new(outputs))
    width = len(consumed) // groups
    if groups < width:  # few wide groups: a unit is the same channel of each group
        state.consume(owner, 1, state.sets.union_along(consumed.view(groups, width), [1]))
        return state.produce(owner, state.sets.new(outputs // groups).repeat(groups))
    passed = _whole_groups(state, owner, consumed, groups).repeat_interleave(outputs // groups)
    _count_groups(state, owner, outputs // groups)
    state.pass_on(owner, passed)
    return passed


def _convolve_transposed(state: TraceState, owner: _Owner, consumed: Tensor, outputs: int, groups: int) -> Tensor:
    """As `_convolve`, of a transposed convolution: its weight is (I, O/G, ...)."""
    if groups == 1:
        state.consume(owner, 0, consumed)
        return state.produce(owner, state.sets.new(outputs), axis=1)
    width = len(consumed) // groups
    if groups < width:
        state.consume(owner, 0, state.sets.union_along(consumed.view(groups, width), [1]).repeat(groups))
        return state.produce(owner, state.sets.new(outputs // groups), axis=1).repeat(groups)
    units = _whole_groups(state, owner, consumed, groups)
    _count_groups(state, owner, width)
    state.pass_on(owner, units.repeat_interleave(width))
    return units.repeat_interleave(outputs // groups)


def _whole_groups(state: TraceState, owner: _Owner, consumed: Tensor, groups: int) -> Tensor:
    """One label for each of many narrow groups: a unit is a whole group."""
    units = state.sets.union_along(consumed.view(groups, -1), [0])
    unlabelled = units == 0
    if bool(unlabelled.any()):
        units = torch.where(unlabelled, state.sets.new(groups), units)
        state.sets.refuse(units[unlabelled], f"{owner[0]} reads the image group by group")
    return units


def _count_groups(state: TraceState, owner: _Owner, rows: int) -> None:
    """Note that a layer counts its groups, if it does. rows: of its weight's first axis, in a group."""
    if isinstance(getattr(state.model.get_submodule(owner[0]), "groups", None), int):
        state.group_sizes[owner[0], "groups"] = rows


# Deformable convolutions


def _deformable(state: TraceState, call: Call) -> Any:
    """torchvision's deformable convolution: what moves and weighs its samples stays."""
    x, weight, groups, parts = (call.given[name] for name in ("input", "weight", "groups", "offset_groups"))
    for name in ("offset", "mask"):
        steering = state.labels(call.given[name])
        if steering is not None:
            state.sets.refuse(steering, "they steer a deformable convolution")
    labels, owner = state.labels(x), state.owner(weight)
    if labels is None and owner is None:
        return None
    if owner is None or (labels is not None and state.sets.varies(labels, [2, 3])):
        return state.refuse_mixed("a deformable convolution", [] if labels is None else [labels], call.result)
    consumed = no_labels(x.shape[1:2]) if labels is None else state.sets.union_along(labels, [1])
    if parts > 1:  # as many channels of each part have offsets of their own
        consumed = state.sets.union_along(consumed.view(parts, -1), [1]).repeat(parts)
    return _biased(state, call, _convolve(state, owner, consumed, call.shape[1], groups))


CONVOLUTION_RULES: dict[str, Callable[[TraceState, Call], Any]] = {
    "convolution": _convolution,
    "deform_conv2d": _deformable,
}
