"""Images that look like others: copies that were saved again, at another quality or size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["alike"]

_GRID, _SMALLEST = 8, 4  # cells in height and width, and pixels of a cell: JPEG spreads colour over less
_NEAR = 6.0  # mean difference of cells, of 255: above that of JPEG at quality 50, below that of two pictures


def alike(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(N,) whether each of `images` (N, C, H, W) looks like any of `others` (M, C, H, W), which may be mirrored."""
    result = np.zeros(len(images), np.bool_)
    if not len(images):
        return result
    cells = _cells(images)
    for at in range(0, len(others), 64):
        part = _cells(others[at : at + 64])
        for view in (part, part[..., ::-1]):
            for row in view:
                result |= np.abs(cells - row).mean((1, 2, 3)) < _NEAR
    return result


def _cells(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over a grid of at most `_GRID` by `_GRID` cells."""
    _, _, height, width = images.shape
    rows, columns = (np.arange(0, size, max(_SMALLEST, -(-size // _GRID))) for size in (height, width))
    sums = np.add.reduceat(np.add.reduceat(images.astype(np.float32), rows, axis=2), columns, axis=3)
    sizes = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    return np.asarray(sums / sizes, np.float32)
