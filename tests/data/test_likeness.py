"""Copies of an image are alike, also when they were saved again; other images are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeoe.data.likeness import alike
from edgeoe.data.synthetic import synthetic_images


def rows(*images: Image.Image) -> NDArray[np.uint8]:
    return np.stack([np.asarray(image.convert("RGB")).transpose(2, 0, 1) for image in images])


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """64 x 64 pixels with large and small parts."""
    return Image.fromarray(synthetic_images(2, (3, 64, 64), seed=5)[1].transpose(1, 2, 0))


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_a_copy_that_was_saved_again_is_alike(picture: Image.Image, quality: int) -> None:
    copy = saved_again(picture, quality)
    assert (rows(copy) != rows(picture)).any()
    assert alike(rows(copy), rows(picture)).all()


def test_a_copy_of_another_size_or_mirrored_is_alike(picture: Image.Image) -> None:
    smaller = picture.resize((40, 40), Image.Resampling.BILINEAR).resize((64, 64), Image.Resampling.BICUBIC)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert alike(rows(smaller, mirrored), rows(picture)).all()


def test_other_images_are_not() -> None:
    images = synthetic_images(130, (3, 16, 16), seed=0)
    near = [int(alike(images[at : at + 1], np.delete(images, at, axis=0)).sum()) for at in range(0, 130, 10)]
    assert sum(near) == 0
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (20, 3, 16, 16)).astype(np.uint8)
    assert not alike(noise, images).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 30), (3, 17, 9)])
def test_any_shape_is_compared(shape: tuple[int, int, int]) -> None:
    images = synthetic_images(4, shape, seed=2)
    assert alike(images, images).all()
    assert not alike(images, images[:0]).any()
    assert alike(images[:0], images).shape == (0,)
