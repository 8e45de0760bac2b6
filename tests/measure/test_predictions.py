"""Predictions are of every image, in order, and know which images they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeoe.codec import from_json, to_json
from edgeoe.measure.predictions import labels_sha256, predict
from edgeoe.measure.predictions import test_sha256 as sha256_of_images
from edgeoe.records.result import Predictions

LABELS = np.arange(150) % 3


def first_pixel(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits whose greatest is the class that the first pixel says."""
    return np.eye(3, dtype=np.float32)[pixels[:, 0, 0, 0]]


@pytest.fixture
def images() -> NDArray[np.uint8]:
    made = np.random.default_rng(0).integers(0, 255, (150, 1, 2, 2)).astype(np.uint8)
    made[:, 0, 0, 0] = (LABELS + (np.arange(150) % 5 == 0)) % 3
    return made


def test_every_image_is_predicted_in_order(images: NDArray[np.uint8]) -> None:
    asked: list[int] = []

    def rows(part: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.extend(part.tolist())
        return images[part]

    seen = predict(first_pixel, rows, LABELS)
    assert asked == list(range(150))
    assert seen.chosen == tuple(images[:, 0, 0, 0].tolist())
    assert np.equal(seen.chosen, seen.labels).mean() == 0.8


def test_the_digest_depends_on_images_labels_and_order_alone(images: NDArray[np.uint8]) -> None:
    def digest(pixels: NDArray[np.uint8], labels: NDArray[np.int64], shift: int = 0) -> str:
        return predict(lambda x: np.roll(first_pixel(x), shift, 1), lambda part: pixels[part], labels).test_sha256

    own = digest(images, LABELS)
    assert digest(images, LABELS, shift=1) == own, "what is said of them does not matter"
    assert digest(images, LABELS.astype(np.int32)) == own
    other = images.copy()
    other[70, 0, 1, 1] ^= 1
    assert len({own, digest(other, LABELS), digest(images, (LABELS + 1) % 3), digest(images[::-1], LABELS)}) == 4


def test_the_digest_can_be_had_without_predicting(images: NDArray[np.uint8]) -> None:
    seen = predict(first_pixel, lambda part: images[part], LABELS)
    assert sha256_of_images(images, LABELS) == seen.test_sha256
    assert sha256_of_images(images[:, :, ::-1], LABELS) != seen.test_sha256
    assert sha256_of_images(images, (LABELS + 1) % 3) != seen.test_sha256


@pytest.mark.parametrize("kind", ["<i8", ">i8", "<i4"])
def test_the_digest_of_labels_is_that_of_8_bytes_each_on_every_machine(kind: str) -> None:
    expected = hashlib.sha256(b"".join(int(label).to_bytes(8, "little") for label in LABELS)).hexdigest()
    assert labels_sha256(LABELS.astype(kind)) == expected


def test_progress_is_told_every_batch(images: NDArray[np.uint8]) -> None:
    told: list[Any] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Any]:
        told.append(total)
        yield lambda: told.append(title)

    predict(first_pixel, lambda part: images[part], LABELS, progress=progress)
    assert told == [3, "Testing", "Testing", "Testing"]


def test_json_and_back(images: NDArray[np.uint8]) -> None:
    seen = predict(first_pixel, lambda part: images[part], LABELS)
    assert from_json(Predictions, json.loads(json.dumps(to_json(seen)))) == seen


@pytest.mark.parametrize(("chosen", "labels"), [((), ()), ((0,), ()), ((0, 1), (0,))])
def test_there_is_one_prediction_for_each_of_at_least_one_label(
    chosen: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=rf"chosen: {len(chosen)} predictions for {len(labels)} labels"):
        Predictions(chosen, labels, "")


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_no_more_than_a_batch_is_predicted_at_once(n: int) -> None:
    batches: list[int] = []

    def infer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        batches.append(len(pixels))
        return first_pixel(pixels)

    predict(infer, lambda part: np.zeros((len(part), 1, 2, 2), np.uint8), np.zeros(n, np.int64))
    assert sum(batches) == n
    assert max(batches) <= 64
