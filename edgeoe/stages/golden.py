"""Golden images, on which a device compares its artifact with the student: none of them is a labelled sample."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeoe.data.likeness import alike
from edgeoe.data.listing import Listing, list_images
from edgeoe.data.pool import Pool, load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import Samples
from edgeoe.data.synthetic import synthetic_images
from edgeoe.errors import DataError
from edgeoe.progress import Progress, silent
from edgeoe.records.compression import GoldenImages, GoldenSource

__all__ = ["clear_of_each_class", "golden_images", "spread_of_pool", "synthetic_golden_images"]

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
_log = logging.getLogger(__name__)
_IMAGES, _CANDIDATES = 32, 256
_PIXELS = 64 * 64 * 64  # evaluated at a time


def golden_images(
    student: nn.Module, samples: Samples, pool: Pool | None, preprocess: Preprocess
) -> tuple[NDArray[np.uint8], GoldenImages]:
    """Images (n, C, H, W) for a device: OOD images, half of them synthetic if those alone are of one predicted class.

    OOD images that are or look like labelled samples are left out. Of the others, each class that the student predicts
    gives as many, and those that it decides clearly, so that rounding does not change the class.

    pool: None if there are no OOD images.
    """
    predict = _predictor(student)
    ood = _clear(predict, _unlike_samples(pool, samples), preprocess) if pool is not None else _Choice()
    if len(ood.classes) > 1:
        return _complete(ood, "OOD images")
    if not ood.images:
        return synthetic_golden_images(predict, preprocess)
    synthetic = _clear(predict, synthetic_images(_CANDIDATES, preprocess.shape, seed=0), preprocess)
    both = _Choice(ood.images[: _IMAGES // 2] + synthetic.images[: _IMAGES // 2], ood.classes | synthetic.classes)
    return _complete(both, "OOD and synthetic images") if len(both.classes) > 1 else _complete(ood, "OOD images")


def synthetic_golden_images(predict: Predict, preprocess: Preprocess) -> tuple[NDArray[np.uint8], GoldenImages]:
    """The golden images of a student where there are no OOD images, or none may be used.

    predict: images (N, C, H, W), as the network takes them -> logits (N, K) of the student.
    """
    images = synthetic_images(_CANDIDATES, preprocess.shape, seed=0)
    return _complete(_clear(predict, images, preprocess), "synthetic images")


@dataclass(frozen=True, slots=True)
class _Choice:
    """Images, and the classes that the student predicts on them."""

    images: tuple[NDArray[np.uint8], ...] = ()
    classes: frozenset[int] = frozenset()


def _complete(choice: _Choice, source: GoldenSource) -> tuple[NDArray[np.uint8], GoldenImages]:
    if len(choice.classes) < 2:
        _log.warning("the student predicts one class on all golden images: they tell less of an artifact than usual")
    return np.stack(choice.images), GoldenImages(source, len(choice.images), len(choice.classes))


def spread_of_pool(
    folder: Path | None, preprocess: Preprocess, *, follow_links: bool = False, progress: Progress = silent
) -> Pool | None:
    """Some of the OOD images below `folder`, for a run that is made without OE; None if there are none.

    follow_links: as for `list_images`.
    """
    if folder is None or not folder.is_dir():
        return None
    try:
        found = list_images(folder, follow_links=follow_links)
        images = tuple(found.images[row] for row in _spread(len(found.images), _CANDIDATES))
        return load_pool(Listing(folder, images, ()), preprocess, progress=progress)
    except DataError:  # nothing there can be read, and nothing but golden images needs it
        return None


def _spread(total: int, count: int) -> NDArray[np.int64]:
    """Indices of `count` of `total`, evenly spaced; of all if there are no more."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def _unlike_samples(pool: Pool, samples: Samples) -> NDArray[np.uint8]:
    """(n, C, H, W) of OOD images that look like no labelled sample."""
    candidates = pool.images.rows(_spread(len(pool), _CANDIDATES))
    same = np.zeros(len(candidates), np.bool_)
    for at in range(0, len(samples.labels), 256):
        rows = np.arange(at, min(at + 256, len(samples.labels)))
        same |= alike(candidates, samples.images.rows(rows))
    return candidates[~same]


def _predictor(student: nn.Module) -> Predict:
    @torch.no_grad()
    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(student(torch.from_numpy(images)).float().numpy(), np.float32)

    return predict


def _clear(predict: Predict, pixels: NDArray[np.uint8], preprocess: Preprocess) -> _Choice:
    """The images of `pixels` (N, C, H, W) to take."""
    if not len(pixels):
        return _Choice()
    step = max(1, _PIXELS // (preprocess.size[0] * preprocess.size[1]))
    parts = [predict(preprocess.normalise(pixels[at : at + step])) for at in range(0, len(pixels), step)]
    logits = np.concatenate(parts)
    rows = clear_of_each_class(logits)[:_IMAGES]
    return _Choice(tuple(pixels[rows]), frozenset(logits[rows].argmax(1).tolist()))


def clear_of_each_class(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices of (N, K) logits: one image of every predicted class, then a second of each, and so on.

    Of a class, the clearer half of its images comes first, from the middle upwards: a correct artifact agrees on them,
    and they are not so clear that a broken one would, too.
    """
    top, predicted = np.sort(logits, axis=1), logits.argmax(1)
    margin = top[:, -1] - top[:, -2]
    turn = np.zeros(len(logits), np.int64)
    for k in np.unique(predicted):
        clearest_first = [row for row in np.argsort(-margin, kind="stable") if predicted[row] == k]
        middle = (len(clearest_first) + 1) // 2
        turn[[*reversed(clearest_first[:middle]), *clearest_first[middle:]]] = np.arange(len(clearest_first))
    return np.lexsort((predicted, turn))
