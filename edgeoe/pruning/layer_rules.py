"""What layers do to channel labels: they consume the labels of their inputs and produce new ones, or pass them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from edgeoe.pruning.convolution_rules import CONVOLUTION_RULES
from edgeoe.pruning.product_rules import PRODUCT_RULES, matrix_product
from edgeoe.pruning.recurrent_rules import RECURRENT_RULES
from edgeoe.pruning.rules import Call, combined, propagate
from edgeoe.pruning.state import TraceState, no_labels

__all__ = ["LAYER_RULES"]


# Linear layers: a transposed weight, then a matrix product


def _transpose(state: TraceState, call: Call) -> Tensor | None:
    matrix = call.given["self"]
    owner, part = state.owner(matrix), state.parts.get(matrix)
    if part is None and owner is not None and matrix.dim() == 2:
        part = owner, torch.arange(len(matrix))
    if part is not None:
        state.transposed[call.result] = part
        return None
    return _transposed(state, call)


def _transposed(state: TraceState, call: Call) -> Tensor | None:
    """`transpose` and `permute`: a parameter's matrix may be the weight of a product, or be used otherwise."""
    matrix, owner = call.given["self"], state.owner(call.given["self"])
    if owner is not None and matrix.dim() == 2 and call.shape == matrix.shape[::-1]:
        state.transposed[call.result] = owner, torch.arange(len(matrix))
    labels = state.labels(matrix)
    return None if labels is None else call.func(labels.view_as(labels), *call.args[1:])


def _slice(state: TraceState, call: Call) -> Any:
    """Rows of a weight that holds several layers, as that of torch's attention does, stay a weight."""
    matrix = call.given["self"]
    owner = state.owner(matrix)
    if owner is None or owner[1] != "in_proj_weight" or call.given.get("dim", 0) != 0:
        return propagate(state, call)
    state.parts[call.result] = owner, torch.arange(len(matrix))[call.given.get("start") or 0 : call.given.get("end")]
    return None


def _mm(state: TraceState, call: Call) -> Tensor | None:
    return _linear(state, call.given["self"], call.given["mat2"], None, call.result)


def _addmm(state: TraceState, call: Call) -> Tensor | None:
    return _linear(state, call.given["mat1"], call.given["mat2"], call.given["self"], call.result)


def _linear(state: TraceState, x: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor) -> Tensor | None:
    part, inputs, outputs = state.transposed.get(weight), 1, 0
    if part is None and state.recorded(weight) is None and (owner := state.owner(weight)):
        part, inputs, outputs = (owner, torch.arange(weight.shape[1])), 0, 1
    if part is None:
        product = matrix_product(state, x, weight, result)
        return product if bias is None or product is None else combined(state, result.shape, [product])
    labels = state.labels(x)
    if labels is not None and state.sets.varies(labels, [0]) and not state.sets.varies(labels, [1]):
        return labels[:, :1].expand(result.shape)  # it mixes positions, not channels
    consumed = no_labels(x.shape[1:2]) if labels is None else state.sets.union_along(labels, [1])
    produced = _produced(state, *part, axis=outputs)
    state.consume(part[0], inputs, consumed)
    state.attach(bias, produced)
    return produced.expand(result.shape)


def _produced(state: TraceState, owner: tuple[str, str], outputs: Tensor, *, axis: int) -> Tensor:
    """New labels of some outputs of a weight, which lie along its `axis`."""
    produced = state.sets.new(len(outputs))
    module, name = owner
    whole = no_labels([getattr(state.model.get_submodule(module), name).shape[axis]])
    state.produce(owner, whole.index_copy(0, outputs, produced), axis=axis)
    return produced


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
    **CONVOLUTION_RULES,
    **PRODUCT_RULES,
    **RECURRENT_RULES,
    "t": _transpose,
    "transpose": _transposed,
    "permute": _transposed,
    "slice": _slice,
    "mm": _mm,
    "addmm": _addmm,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
}
