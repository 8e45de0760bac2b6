"""What operators between layers do to channel labels: data movement, arithmetic, reductions, matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeoe.errors import pass_on_out_of_memory
from edgeoe.pruning.state import SplitConstraint, TraceState, no_labels
from edgeoe.pruning.union_find import leading, narrowed

__all__ = ["Call", "averages_neighbours", "combined", "propagate", "spread_along"]


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call of a forward pass.

    name: of the operator, without namespace, overload and the underscore of in-place variants.
    func: the operator, callable with other tensors.
    args: its positional arguments.
    given: all its arguments, by name.
    result: what it returned.
    """

    name: str
    func: Callable[..., Any]
    args: Sequence[Any]
    given: Mapping[str, Any]
    result: Any

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among the positional arguments, in lists of tensors too."""
        parts = [part for value in self.args for part in (value if isinstance(value, (list, tuple)) else [value])]
        return [part for part in parts if isinstance(part, Tensor)]

    @property
    def shape(self) -> torch.Size:
        """The shape of the result, or of the first of several."""
        first: Tensor = self.result[0] if isinstance(self.result, (tuple, list)) else self.result
        return first.shape


Rule = Callable[[TraceState, Call], Any]


def propagate(state: TraceState, call: Call) -> Any:
    """Labels of what `call` returns, by the rule of its operator; None if no input carries labels.

    An operator without a rule is elementwise if its result has the broadcast shape of its inputs. Any other mixes
    channels in an unknown way: they are refused.
    """
    inputs = _input_labels(state, call)
    if not inputs:
        return None
    rule = _RULES.get(call.name)
    if rule is None:
        return _elementwise(state, call)
    try:
        return rule(state, call)
    except (RuntimeError, KeyError, TypeError, IndexError, ValueError) as reason:
        pass_on_out_of_memory(reason)
        return state.refuse_mixed(call.name, inputs, call.result)


def _input_labels(state: TraceState, call: Call) -> list[Tensor]:
    return [labels for tensor in call.tensors if (labels := state.labels(tensor)) is not None]


# Data movement: labels move as the data does


def _copy(state: TraceState, call: Call) -> Tensor | None:
    return state.labels(call.args[0])


def _move(state: TraceState, call: Call) -> Any:
    labels = state.labels(call.args[0])
    return None if labels is None else call.func(labels.view_as(labels), *call.args[1:])  # it may be in place


def _slice(state: TraceState, call: Call) -> Any:
    labels = state.labels(call.args[0])
    if labels is None:
        return None
    parts = _move(state, call)
    state.note_split(labels, call.given.get("dim", 0), parts)
    return parts


def _concatenate(state: TraceState, call: Call) -> Any:
    parts = [no_labels(part.shape) if (own := state.labels(part)) is None else own for part in call.args[0]]
    return call.func(parts, *call.args[1:])


def _pad(state: TraceState, call: Call) -> Any:
    labels = state.labels(call.args[0])
    return None if labels is None else call.func(labels, call.given["pad"], 0.0)


def _reshape(state: TraceState, call: Call) -> Tensor | None:
    labels = state.labels(call.args[0])
    if labels is None:
        return None
    reshaped = labels.reshape(call.shape)
    _constrain_split_axes(state, labels.shape, reshaped)
    return reshaped


def _constrain_split_axes(state: TraceState, before: torch.Size, after: Tensor) -> None:
    """Note each axis of `before` of which the view `after` makes several."""
    for merged, parts in _aligned(before, after.shape):
        axes = [axis for axis in parts if after.shape[axis] > 1]
        if sum(before[axis] > 1 for axis in merged) == 1:
            for first in range(len(axes) - 1):
                _constrain_axes(state, after, axes[first:])


def _aligned(before: torch.Size, after: torch.Size) -> Iterator[tuple[list[int], list[int]]]:
    """Axes of `before` and axes of `after`, of one shape viewed as another, that hold the same elements: as few each
    as can be."""
    left, right = (0, 0) if 0 not in before else (len(before), len(after))
    while left < len(before) and right < len(after):
        ends = [left + 1, right + 1]
        while (sizes := (math.prod(before[left : ends[0]]), math.prod(after[right : ends[1]])))[0] != sizes[1]:
            ends[sizes[0] > sizes[1]] += 1
        yield list(range(left, ends[0])), list(range(right, ends[1]))
        left, right = ends


def _constrain_axes(state: TraceState, labels: Tensor, axes: list[int]) -> None:
    if state.sets.varies(labels, axes):
        moved = leading(labels, axes)
        table = moved.reshape(len(moved), math.prod(moved.shape[1 : len(axes)]), -1)
        state.constraints.append(SplitConstraint(table, equal_parts=False))


def _split(state: TraceState, call: Call) -> Any:
    parts = _slice(state, call)
    if parts is not None and len({part.shape for part in parts}) == 1 and len(parts) > 1:
        axis = call.given.get("dim", 0)
        table = torch.stack([leading(part, [axis]).flatten(1) for part in parts])
        if state.sets.varies(table, [0]):
            state.constraints.append(SplitConstraint(table, equal_parts=True))
    return parts


# Arithmetic: elements that meet are coupled


def _elementwise(state: TraceState, call: Call) -> Any:
    inputs = _input_labels(state, call)
    if isinstance(call.result, Tensor) and call.result.shape == _broadcast([t.shape for t in call.tensors]):
        result = combined(state, call.result.shape, inputs)
        if call.name in ("add", "sub") and sum(not state.from_parameters(labels) for labels in inputs) > 1:
            state.sums += [] if result is None else [torch.unique(result)]
        return result
    return state.refuse_mixed(call.name, inputs, call.result)


def _broadcast(shapes: Sequence[torch.Size]) -> torch.Size | None:
    try:
        return torch.Size(np.broadcast_shapes(*shapes))
    except ValueError:
        return None


def combined(state: TraceState, shape: torch.Size, inputs: Sequence[Tensor]) -> Tensor | None:
    """Labels of elementwise arithmetic on tensors with the labels `inputs`, broadcast to `shape`.

    An input that is broadcast over the channels of another belongs to none of them: it is refused, unless these turn
    out to be the same channels later.
    """
    wide = [labels.reshape([1] * (len(shape) - labels.dim()) + list(labels.shape)) for labels in inputs]
    kept = []
    for labels in wide:
        spread = [axis for axis in range(len(shape)) if labels.shape[axis] == 1 < shape[axis]]
        over = [
            (other, axes)
            for other in wide
            if other is not labels and (axes := [axis for axis in spread if other.shape[axis] > 1])
        ]
        if any(_is_spread_over(state, labels, other, axes) for other, axes in over):
            state.spread += [(labels, other, axes) for other, axes in over]
        else:
            kept.append(labels)
    result: Tensor | None = None
    for labels in kept:
        result = labels.expand(shape) if result is None else _united(state, result, labels.expand(shape))
    return result


def _is_spread_over(state: TraceState, labels: Tensor, other: Tensor, axes: Sequence[int]) -> bool:
    """Whether `labels`, broadcast along `axes`, are so over the channels of `other`.

    The elements of a parameter are no channels yet: those that meet channels on another axis belong to them.
    """
    if not state.sets.varies(other, axes):
        return False
    own = [axis for axis in range(labels.dim()) if axis not in axes and other.shape[axis] > 1]
    meets = state.from_parameters(other) and not state.from_parameters(labels) and state.sets.varies(labels, own)
    return not meets


def _united(state: TraceState, a: Tensor, b: Tensor) -> Tensor:
    """Labels `a`, and those of `b` where `a` has none, once both are united."""
    both = [axis for axis in range(a.dim()) if a.stride(axis) == b.stride(axis) == 0]
    small_a, small_b = narrowed(a, both), narrowed(b, both)
    state.sets.union(small_a, small_b)
    if bool((small_a != 0).all()):
        return a
    return torch.where(small_a != 0, small_a, small_b).expand(a.shape)


def _glu(state: TraceState, call: Call) -> Tensor | None:
    labels = state.labels(call.given["self"])
    return None if labels is None else _united(state, *labels.chunk(2, call.given.get("dim", -1)))


# Reductions, and what else mixes along some axes


def _of_labelled_input(rule: Callable[[TraceState, Call, Tensor], Any]) -> Rule:
    """`rule`, which takes the labels of the first argument; without those, the operator counts as elementwise."""

    def apply(state: TraceState, call: Call) -> Any:
        labels = state.labels(call.args[0])
        return _elementwise(state, call) if labels is None else rule(state, call, labels)

    return apply


def _reduce(state: TraceState, call: Call, labels: Tensor) -> Tensor | None:
    dims = call.given.get("dim")
    dims = list(range(labels.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    reduced, kept = _partition_axes(labels, dims)
    if state.sets.varies(labels, reduced) and not state.sets.varies(labels, kept):
        return None  # a statistic over channels, of however many
    if call.name in _SPREADS and state.from_parameters(labels):
        return None  # what a parameter is divided by
    return state.sets.union_along(labels, kept).reshape(call.shape)


_SPREADS = frozenset({"linalg_vector_norm", "norm", "var", "std", "var_mean", "std_mean"})


def _mix_along(state: TraceState, call: Call, labels: Tensor) -> Tensor:
    return spread_along(state, labels, [call.given["dim"]])


def spread_along(state: TraceState, labels: Tensor, dims: Sequence[int]) -> Tensor:
    """Labels of a result whose every element depends on all elements along `dims`."""
    mixed, kept = _partition_axes(labels, dims)
    united = state.sets.union_along(labels, kept)
    for axis in sorted(mixed):
        united = united.unsqueeze(axis)
    return united.expand(labels.shape)


def _partition_axes(labels: Tensor, dims: Iterable[int]) -> tuple[set[int], list[int]]:
    """`dims` as axes counted from 0, and the other axes of `labels`."""
    chosen = {dim % labels.dim() for dim in dims}
    return chosen, [axis for axis in range(labels.dim()) if axis not in chosen]


def _resample(state: TraceState, call: Call, labels: Tensor) -> Tensor:
    """Pooling and interpolation over the last two axes."""
    return state.sets.union_along(labels, range(labels.dim() - 2))[..., None, None].expand(call.shape)


def _resample_last(state: TraceState, call: Call, labels: Tensor) -> Tensor:
    """Interpolation along the last axis."""
    return state.sets.union_along(labels, range(labels.dim() - 1))[..., None].expand(call.shape)


def _neighbours(state: TraceState, call: Call, labels: Tensor) -> Any:
    """Means over neighbours: of channels, in a local response norm, a statistic that labels none; else of places."""
    if not state.sets.varies(labels, range(labels.dim() - 3, labels.dim())):
        return state.sets.union_along(labels, range(labels.dim() - 3))[..., None, None, None].expand(call.shape)
    if averages_neighbours(call.args[1], call.given.get("stride")):
        return None
    return state.refuse_mixed(call.name, [labels], call.result)


def averages_neighbours(kernel: Sequence[int], stride: Sequence[int] | None) -> bool:
    """Whether a pooling over three axes is the mean of each channel and its neighbours, as local response norms have
    it."""
    return kernel[0] > 1 and set(kernel[1:]) == {1} and set(stride or kernel) == {1}


_RULES: dict[str, Rule] = {
    **dict.fromkeys(["clone", "contiguous", "alias", "detach", "lift_fresh", "_to_copy"], _copy),
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "_reshape_alias"], _reshape),
    **dict.fromkeys(["split", "split_with_sizes", "unsafe_split", "unsafe_chunk"], _split),
    **dict.fromkeys(["cat", "stack"], _concatenate),
    "slice": _slice,
    "constant_pad_nd": _pad,
    **dict.fromkeys(
        [
            *("expand", "select", "squeeze", "unsqueeze", "unbind", "roll"),
            *("flip", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "index", "repeat", "index_select"),
            *("gather", "unfold", "im2col", "diagonal", "tril", "triu", "pixel_shuffle", "pixel_unshuffle"),
            "channel_shuffle",
        ],
        _move,
    ),
    "glu": _glu,
    **dict.fromkeys(
        [
            *("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "linalg_vector_norm"),
            *("norm", "logsumexp", "prod", "argmax"),
        ],
        _of_labelled_input(_reduce),
    ),
    **dict.fromkeys(
        ["upsample_nearest1d", "upsample_linear1d", "_upsample_nearest_exact1d"], _of_labelled_input(_resample_last)
    ),
    "avg_pool3d": _of_labelled_input(_neighbours),
    **dict.fromkeys(["_softmax", "_safe_softmax", "_log_softmax", "cumsum"], _of_labelled_input(_mix_along)),
    **dict.fromkeys(
        [
            *("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"),
            *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "grid_sampler_2d"),
            *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_adaptive_avg_pool3d"),
            "_upsample_nearest_exact2d",
        ],
        _of_labelled_input(_resample),
    ),
}
