"""Predictions on test images. Needs only numpy, so that it runs on a device, too."""

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
    """SHA-256 of (N,) labels, the same on every machine."""
    return _digest(labels).hexdigest()


def test_sha256(pixels: NDArray[np.uint8], labels: ArrayLike) -> str:
    """SHA-256 of test images, as `predict` records it.

    pixels: (N, C, H, W) of all images.
    labels: (N,)
    """
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
    rows: indices -> pixels of these images.
    labels: (N,), N > 0.
    """
    digest = _digest(labels)
    parts = np.array_split(np.arange(len(labels)), max(1, -(-len(labels) // _BATCH)))
    classes = []
    with progress("Testing", len(parts)) as advance:
        for part in parts:
            pixels = rows(part)
            digest.update(np.ascontiguousarray(pixels).tobytes())
            classes.append(infer(pixels).argmax(1))
            advance()
    return Predictions(tuple(np.concatenate(classes).tolist()), tuple(labels.tolist()), digest.hexdigest())
