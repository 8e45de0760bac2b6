"""Union-find over channel labels that are stored in tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["UnionFind", "leading", "narrowed"]


class UnionFind:
    """Disjoint sets of labels.

    Labels are positive integers, stored as float64 since every tensor function moves those; 0 is no label.
    """

    def __init__(self) -> None:
        self._root: NDArray[np.int64] = np.zeros(1, np.int64)
        self._refused: dict[int, str] = {}

    def new(self, count: int) -> Tensor:
        """`count` new labels (count,), each a set of its own."""
        start = len(self._root)
        fresh = np.arange(start, start + count)
        self._root = np.concatenate([self._root, fresh])
        return torch.from_numpy(fresh.astype(np.float64))

    def find(self, labels: Tensor) -> Tensor:
        """The representative of each label's set, in the shape of `labels`."""
        return torch.from_numpy(self._root)[labels.long()].double()

    def alone(self, labels: Tensor) -> Tensor:
        """Which of `labels` are in a set without others, in their shape; 0 is not."""
        sizes = np.bincount(self._root)
        single = torch.from_numpy(sizes == 1)
        return single[self.find(labels).long()] & (labels != 0)

    def union(self, a: Tensor, b: Tensor) -> None:
        """Unite the set of each label in `a` with that of its partner in `b`, of the same shape; 0 unites nothing."""
        left, right = (self._root[t.reshape(-1).long().numpy()] for t in (a, b))
        real = (left != right) & (left > 0) & (right > 0)
        if not real.any():
            return
        left, right = np.divmod(np.unique(left[real] * len(self._root) + right[real]), len(self._root))
        nodes, place = np.unique(np.concatenate([left, right]), return_inverse=True)
        edges = coo_array((np.ones(len(left)), np.split(place, 2)), shape=(len(nodes), len(nodes)))
        _, component = connected_components(edges, directed=False)
        _, first = np.unique(component, return_index=True)
        table = np.arange(len(self._root))
        table[nodes] = nodes[first[component]]
        self._root = table[self._root]

    def union_along(self, labels: Tensor, axes: Sequence[int]) -> Tensor:
        """Unite the labels that share an index along `axes`. Returns one label for each index."""
        axes = [axis % labels.dim() for axis in axes]
        kept = [labels.shape[axis] for axis in axes]
        roots = self.find(leading(labels, axes).reshape(*kept, -1))
        highest = roots.amax(-1)
        odd = (roots != highest[..., None]) & (roots != 0)
        if odd.any():
            self.union(highest[..., None].expand_as(roots)[odd], roots[odd])
        return highest

    def varies(self, labels: Tensor, axes: Iterable[int]) -> bool:
        """Whether labels of different sets lie side by side along `axes`; zeros don't count."""
        axes = [axis % labels.dim() for axis in axes]
        if not axes:
            return False
        roots = self.find(narrowed(labels, [a for a in range(labels.dim()) if a not in axes]))
        highest = roots.amax(axes, keepdim=True)
        return bool(((roots != highest) & (roots != 0)).any())

    def refuse(self, labels: Tensor, reason: str) -> None:
        """Mark the sets of `labels` as not prunable, also after later unions; the first reason of a label holds."""
        for label in torch.unique(labels).tolist():
            self._refused.setdefault(int(label), reason)

    def reasons(self) -> dict[int, str]:
        """{representative: reason} of every refused set; of several reasons the first holds."""
        return {int(self._root[label]): reason for label, reason in reversed(self._refused.items()) if label}


def leading(labels: Tensor, axes: Sequence[int]) -> Tensor:
    """`labels` with `axes` first; other axes along which they were only expanded have length 1."""
    axes = [axis % labels.dim() for axis in axes]
    return narrowed(labels, set(range(labels.dim())) - set(axes)).movedim(axes, list(range(len(axes))))


def narrowed(labels: Tensor, axes: Iterable[int]) -> Tensor:
    """`labels` with length 1 along those of `axes` along which they were only expanded."""
    for axis in axes:
        if labels.stride(axis) == 0 and labels.shape[axis] > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels
