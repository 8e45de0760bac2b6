"""Normalisation of pixels to network inputs. Imports numpy only, because it also runs on devices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["normalise"]


def normalise(pixels: NDArray[np.uint8], *, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Scale (N, C, H, W) uint8 to 0..1, subtract `mean` and divide by `std`, each of C values."""
    centre = np.asarray(mean, np.float32)[:, None, None]
    spread = np.asarray(std, np.float32)[:, None, None]
    return np.asarray((pixels.astype(np.float32) / np.float32(255) - centre) / spread, dtype=np.float32)
