"""Names of channels, and tensors of them in the place of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["Names", "leading", "narrowed"]


class Names:
    """Names are whole numbers, kept as doubles since every function moves those. 0 is no name."""

    def __init__(self) -> None:
        self._root: NDArray[np.int64] = np.zeros(1, np.int64)
        self.frozen: dict[int, str] = {}

    def new(self, count: int) -> Tensor:
        """`count` names (count,) that nothing bears yet."""
        start = len(self._root)
        fresh = np.arange(start, start + count)
        self._root = np.concatenate([self._root, fresh])
        return torch.from_numpy(fresh.astype(np.float64))

    def find(self, names: Tensor) -> Tensor:
        """The same names, written alike where they have been united."""
        return torch.from_numpy(self._root)[names.long()].double()

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Each of `a` with its partner in `b`, of the same shape; no name unites with nothing."""
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

    def along(self, names: Tensor, axes: Sequence[int]) -> Tensor:
        """One name for each place along `axes`: what the others hold there is united."""
        axes = [axis % names.dim() for axis in axes]
        kept = [names.shape[axis] for axis in axes]
        found = self.find(leading(names, axes).reshape(*kept, -1))
        highest = found.amax(-1)
        odd = (found != highest[..., None]) & (found != 0)
        if odd.any():
            self.unite(highest[..., None].expand_as(found)[odd], found[odd])
        return highest

    def vary(self, names: Tensor, axes: Iterable[int]) -> bool:
        """Whether different names stand side by side along `axes`; places without a name don't count."""
        axes = [axis % names.dim() for axis in axes]
        if not axes:
            return False
        found = self.find(narrowed(names, [a for a in range(names.dim()) if a not in axes]))
        highest = found.amax(axes, keepdim=True)
        return bool(((found != highest) & (found != 0)).any())

    def freeze(self, names: Tensor, reason: str) -> None:
        """What bears one of `names`, or is united with one, stays for that reason; the first one given holds."""
        for name in torch.unique(names).tolist():
            self.frozen.setdefault(int(name), reason)

    def reasons(self) -> dict[int, str]:
        """Why what bears a name stays, by names as `find` writes them."""
        return {int(self._root[name]): reason for name, reason in reversed(self.frozen.items()) if name}


def leading(names: Tensor, axes: Sequence[int]) -> Tensor:
    """`names` with `axes` first, at one place of those others along which it was only expanded."""
    axes = [axis % names.dim() for axis in axes]
    return narrowed(names, set(range(names.dim())) - set(axes)).movedim(axes, list(range(len(axes))))


def narrowed(names: Tensor, axes: Iterable[int]) -> Tensor:
    """`names` at the first place of those `axes` along which it was only expanded."""
    for axis in axes:
        if names.stride(axis) == 0 and names.shape[axis] > 1:
            names = names.narrow(axis, 0, 1)
    return names
