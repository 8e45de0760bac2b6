"""What products of matrices of activations, and distances between rows, do to channel labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from edgeoe.pruning.rules import Call, spread_along
from edgeoe.pruning.state import TraceState

__all__ = ["PRODUCT_RULES", "matrix_product"]


def _batched_product(state: TraceState, call: Call) -> Tensor | None:
    a, b = call.tensors[-2:]
    return matrix_product(state, a, b, call.result)


def matrix_product(state: TraceState, a: Tensor, b: Tensor, result: Tensor) -> Tensor | None:
    """Labels of `result`, the matrix product (..., n, k) x (..., k, m) of activations a and b."""
    left, right = state.labels(a), state.labels(b)
    batches = range(a.dim() - 2)
    if left is not None and right is not None:
        if _is_statistic(state, left, -1, right, -2) or _is_statistic(state, right, -2, left, -1):
            return None
        if _is_shared(state, left, batches) and not state.from_parameters(right):
            left = None
        elif _is_shared(state, right, batches) and not state.from_parameters(left):
            right = None
    if left is None or right is None:
        labels, axis = (left, -1) if left is not None else (right, -2)
        return None if labels is None else spread_along(state, labels, [axis]).narrow(axis, 0, 1).expand(result.shape)
    state.has_products = True
    if state.within_heads:
        return _contracted(state, left, right, result)
    return _per_matrix(state, left, right, result)


def _per_matrix(state: TraceState, left: Tensor, right: Tensor, result: Tensor) -> Tensor:
    """Labels of a product in which all that multiplies in one matrix of the batch depends on each other: a head."""
    batches = range(left.dim() - 2)
    one = torch.stack([state.sets.union_along(left, batches), state.sets.union_along(right, batches)], -1)
    return state.sets.union_along(one, batches)[..., None, None].expand(result.shape)


def _contracted(state: TraceState, left: Tensor, right: Tensor, result: Tensor) -> Tensor | None:
    """Labels of a product that sums over channels, of however many, or hands on those of one of its factors.

    Where both factors would hand theirs on, channels multiply channels: they depend on each other. Parameters, such as
    biases of attention, hand none on.
    """
    sums = [state.sets.varies(left, [-1]), state.sets.varies(right, [-2])]
    hands_on = [
        state.sets.varies(labels, [axis]) and not summed and not state.from_parameters(labels)
        for labels, axis, summed in ((left, -2, sums[0]), (right, -1, sums[1]))
    ]
    if all(hands_on) or not any((*sums, *hands_on)):
        return _per_matrix(state, left, right, result)
    if any(sums):
        batches = list(range(left.dim() - 2))
        state.sets.union(*(state.sets.union_along(*part) for part in ((left, [*batches, -1]), (right, [*batches, -2]))))
    if not any(hands_on):
        return None
    return (left.narrow(-1, 0, 1) if hands_on[0] else right.narrow(-2, 0, 1)).expand(result.shape)


def _is_statistic(state: TraceState, channels: Tensor, axis: int, parameter: Tensor, other: int) -> bool:
    """Whether a parameter sums over `channels` along `axis`, as the prototypes of a head do, which are then united
    with its elements along its axis `other`: these channels may go, and what it computes from them stays."""
    if state.from_parameters(channels) or not state.from_parameters(parameter):
        return False
    batches = range(parameter.dim() - 2)
    if state.sets.varies(parameter, batches) or not state.sets.varies(channels, [axis]):
        return False
    if state.sets.varies(channels, [place for place in range(channels.dim()) if place != axis % channels.dim()]):
        return False
    state.sets.union(state.sets.union_along(channels, [axis]), state.sets.union_along(parameter, [other]))
    return True


def _distances(state: TraceState, call: Call) -> Any:
    """Distances (..., n, m) of the rows of (..., n, k) and (..., m, k): a statistic over channels, of however many."""
    rows = [labels for tensor in call.args[:2] if (labels := state.labels(tensor)) is not None]
    if any(state.sets.varies(one, range(one.dim() - 1)) and not state.from_parameters(one) for one in rows):
        return state.refuse_mixed("a distance between them", rows, call.result)
    along = [state.sets.union_along(one, [-1]) for one in rows]
    if len(along) == 2:
        state.sets.union(*along)
    return None


def _is_shared(state: TraceState, labels: Tensor, batches: Iterable[int]) -> bool:
    """Whether a parameter multiplies every matrix of a batch: then it does not hold the channels of the batch."""
    return state.from_parameters(labels) and not state.sets.varies(labels, batches)


PRODUCT_RULES: dict[str, Callable[[TraceState, Call], Any]] = {  # operator without underscores -> its rule
    "bmm": _batched_product,
    "baddbmm": _batched_product,
    "cdist_forward": _distances,
    "euclidean_dist": _distances,
}
