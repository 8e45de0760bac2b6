"""What layers do to channel labels: they consume the labels of their inputs and produce new ones, or pass them on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from edgeoe.pruning.rules import Call, combined, matrix_product
from edgeoe.pruning.state import TraceState, no_labels

__all__ = ["LAYER_RULES"]


# Linear layers: a transposed weight, then a matrix product


def _transpose(state: TraceState, call: Call) -> Tensor | None:
    matrix = call.given["self"]
    owner = state.owner(matrix)
    if owner is not None and matrix.dim() == 2:
        state.transposed[call.result] = owner
        return None
    labels = state.labels(matrix)
    return None if labels is None else labels.t()


def _mm(state: TraceState, call: Call) -> Tensor | None:
    return _linear(state, call.given["self"], call.given["mat2"], None, call.result)


def _addmm(state: TraceState, call: Call) -> Tensor | None:
    return _linear(state, call.given["mat1"], call.given["mat2"], call.given["self"], call.result)


def _linear(state: TraceState, x: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor) -> Tensor | None:
    owner = state.transposed.get(weight)
    if owner is None:
        product = matrix_product(state, x, weight, result)
        return product if bias is None or product is None else combined(state, result.shape, [product])
    labels = state.labels(x)
    if labels is not None and state.sets.varies(labels, [0]) and not state.sets.varies(labels, [1]):
        return labels[:, :1].expand(result.shape)  # it mixes positions, not channels
    consumed = no_labels(x.shape[1:2]) if labels is None else state.sets.union_along(labels, [1])
    produced = state.produce(owner, state.sets.new(result.shape[1]))
    state.hold(owner, 1, consumed)
    state.attach(bias, produced)
    return produced.expand(result.shape)


# Convolutions


def _convolution(state: TraceState, call: Call) -> Any:
    x, weight, groups = call.given["input"], call.given["weight"], call.given["groups"]
    labels = state.labels(x)
    owner, scales = _owner_of_weight(state, weight)
    if owner is None or call.given["transposed"]:
        if labels is None:
            return None
        return state.refuse_mixed("a convolution with computed weights", [labels], call.result)
    positions = range(2, x.dim())
    if labels is not None and state.sets.varies(labels, positions):
        if groups == 1 and math.prod(weight.shape[2:]) == 1 and not state.sets.varies(labels, [1]):
            return labels[:, :1].expand(call.shape)
        return state.refuse_mixed("a convolution along them", [labels], call.result)
    consumed = no_labels(x.shape[1:2]) if labels is None else state.sets.union_along(labels, [1])
    produced = _convolve(state, owner, consumed, len(weight), groups)
    for scale in scales:
        elements = state.labels(scale)
        if elements is not None:
            wide = produced[:, None].expand(len(produced), elements[0].numel())
            state.sets.union(elements.reshape(len(produced), -1), wide)
    state.attach(call.given.get("bias"), produced)
    return produced.view(1, -1, *([1] * len(positions))).expand(call.shape)


def _owner_of_weight(state: TraceState, weight: Tensor) -> tuple[tuple[str, str] | None, list[Tensor]]:
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


def _convolve(state: TraceState, owner: tuple[str, str], consumed: Tensor, outputs: int, groups: int) -> Tensor:
    """Labels of the `outputs` of a convolution with labels `consumed` along its inputs."""
    if groups == 1:
        state.hold(owner, 1, consumed)
        return state.produce(owner, state.sets.new(outputs))
    width = len(consumed) // groups
    table = consumed.view(groups, width)
    if groups < width:  # few wide groups: a unit is the same channel of each group
        state.hold(owner, 1, state.sets.union_along(table, [1]))
        return state.produce(owner, state.sets.new(outputs // groups).repeat(groups))
    units = state.sets.union_along(table, [0])  # many narrow groups: a unit is a whole group
    unlabelled = units == 0
    if bool(unlabelled.any()):
        units = torch.where(unlabelled, state.sets.new(groups), units)
        state.sets.refuse(units[unlabelled], f"{owner[0]} reads the image group by group")
    passed = units.repeat_interleave(outputs // groups)
    state.group_sizes[owner[0], "groups"] = outputs // groups
    state.hold(owner, 0, passed)
    return passed


# Norms pass labels on


def _batch_norm(state: TraceState, call: Call) -> Tensor | None:
    labels = state.labels(call.given["input"])
    if labels is not None:
        _attach_all(state, call.given, state.sets.union_along(labels, [1]))
    return labels


def _layer_norm(state: TraceState, call: Call) -> Tensor | None:
    labels = state.labels(call.given["input"])
    if labels is None:
        return None
    axes = range(-len(call.given["normalized_shape"]), 0)
    if len(axes) == 1:
        _attach_all(state, call.given, state.sets.union_along(labels, axes))
        return labels
    scales = [own for key in ("weight", "bias") if (own := state.labels(call.given.get(key))) is not None]
    return combined(state, labels.shape, [labels, *scales])


def _group_norm(state: TraceState, call: Call) -> Tensor | None:
    labels = state.labels(call.given["input"])
    if labels is None:
        return None
    channels, groups = state.sets.union_along(labels, [1]), call.given["group"]
    if groups > 1:
        state.sets.union_along(channels.view(groups, -1), [0])
        owner = state.owner(call.given.get("weight"))
        if owner is None:
            state.sets.refuse(labels, "a group norm without weights counts them")
        else:
            state.group_sizes[owner[0], "num_groups"] = len(channels) // groups
    _attach_all(state, call.given, channels)
    return labels


def _attach_all(state: TraceState, given: Mapping[str, Any], channels: Tensor) -> None:
    for key in ("weight", "bias", "running_mean", "running_var"):
        state.attach(given.get(key), channels)


LAYER_RULES: dict[str, Callable[[TraceState, Call], Any]] = {  # operator without underscores -> its rule
    "t": _transpose,
    "mm": _mm,
    "addmm": _addmm,
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
}
