"""What an artifact says of test images. numpy alone, so that a device can do it too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeoe.progress import Progress, silent
from edgeoe.records.result import Predictions

__all__ = ["labels_sha256", "predict", "test_sha256"]

_BATCH = 64


def labels_sha256(labels: ArrayLike) -> str:
    """SHA-256 of (N,) labels, whatever machine holds them."""
    return _digest(labels).hexdigest()


def test_sha256(pixels: NDArray[np.uint8], labels: ArrayLike) -> str:
    """What `predict` makes the `test_sha256` of, for all images at once: (N, C, H, W) pixels and (N,) labels."""
    digest = _digest(labels)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _digest(labels: ArrayLike) -> hashlib._Hash:
    return hashlib.sha256(np.ascontiguousarray(labels, "<i8").tobytes())


def predict(
    infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    rows: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    labels: NDArray[np.int64],
    *,
    progress: Progress = silent,
) -> Predictions:
    """Predictions of a network on N images.

    infer: (n, C, H, W) pixels -> (n, K) logits.
    rows: the pixels of the images with those indices.
    labels: (N,), N > 0.
    """
    digest = _digest(labels)
    parts = np.array_split(np.arange(len(labels)), max(1, -(-len(labels) // _BATCH)))
    chosen = []
    with progress("Testing", len(parts)) as advance:
        for part in parts:
            pixels = rows(part)
            digest.update(np.ascontiguousarray(pixels).tobytes())
            chosen.append(infer(pixels).argmax(1))
            advance()
    return Predictions(tuple(np.concatenate(chosen).tolist()), tuple(labels.tolist()), digest.hexdigest())
