"""What an artifact says of test images. numpy alone, so that a device can do it too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from edgeoe.codec import from_json
from edgeoe.progress import Progress, silent

__all__ = ["Predictions", "labels_sha256", "predict", "test_sha256"]

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Predictions:
    """chosen: (N,) class for each test image. labels: (N,) the true ones. test_sha256: of all pixels and labels, so
    that two artifacts' predictions are paired only if they are of the same images in the same order."""

    chosen: NDArray[np.int64]
    labels: NDArray[np.int64]
    test_sha256: str

    def to_json(self) -> dict[str, Any]:
        """JSON data that `from_json` reads."""
        return {"chosen": self.chosen.tolist(), "labels": self.labels.tolist(), "test_sha256": self.test_sha256}

    @classmethod
    def from_json(cls, data: Any, *, classes: int) -> Predictions:
        """What `to_json` made of one. Raises ValueError where it is none of as many classes."""
        plain = from_json(_Plain, data)
        chosen, labels = np.asarray(plain.chosen, np.int64), np.asarray(plain.labels, np.int64)
        if not len(labels) or len(chosen) != len(labels) or max(chosen.max(), labels.max()) >= classes:
            raise ValueError(f"predictions: not one of {classes} classes for each of at least one image")
        return cls(chosen, labels, plain.test_sha256)


@dataclass(frozen=True, slots=True)
class _Plain:
    """Predictions without arrays."""

    chosen: tuple[Annotated[int, Ge(0)], ...]
    labels: tuple[Annotated[int, Ge(0)], ...]
    test_sha256: str


def labels_sha256(labels: NDArray[np.int64]) -> str:
    """SHA-256 of (N,) labels, whatever machine holds them."""
    return _digest(labels).hexdigest()


def test_sha256(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """What `predict` makes the `test_sha256` of, for all images at once: (N, C, H, W) pixels and (N,) labels."""
    digest = _digest(labels)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _digest(labels: NDArray[np.int64]) -> hashlib._Hash:
    return hashlib.sha256(np.ascontiguousarray(labels, "<i8").tobytes())


def predict(
    infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    rows: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    labels: NDArray[np.int64],
    *,
    progress: Progress = silent,
) -> Predictions:
    """infer: (n, C, H, W) pixels -> (n, K) logits. rows: the pixels of the images with those indices. labels: (N,)."""
    digest = _digest(labels)
    parts = np.array_split(np.arange(len(labels)), max(1, -(-len(labels) // _BATCH)))
    chosen = []
    with progress("Testing", len(parts)) as advance:
        for part in parts:
            pixels = rows(part)
            digest.update(np.ascontiguousarray(pixels).tobytes())
            chosen.append(infer(pixels).argmax(1))
            advance()
    return Predictions(np.concatenate(chosen).astype(np.int64), labels, digest.hexdigest())
