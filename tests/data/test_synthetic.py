"""Synthetic images are images: of the shape asked for, always the same, and unlike each other."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.data.synthetic import synthetic_images

SIDES = st.integers(1, 40)


@given(st.integers(1, 8), st.sampled_from([1, 3]), SIDES, SIDES, st.integers(0, 9))
def test_any_shape_is_filled(count: int, channels: int, height: int, width: int, seed: int) -> None:
    images = synthetic_images(count, (channels, height, width), seed=seed)
    assert (images.shape, images.dtype) == ((count, channels, height, width), np.uint8)
    np.testing.assert_array_equal(images, synthetic_images(count, (channels, height, width), seed=seed))


def test_more_images_begin_with_the_same_ones() -> None:
    np.testing.assert_array_equal(synthetic_images(8, (3, 9, 9), seed=1)[:3], synthetic_images(3, (3, 9, 9), seed=1))


def test_images_vary_in_colour_contrast_and_coarseness() -> None:
    images = synthetic_images(64, (3, 32, 32), seed=0).astype(float)
    assert np.ptp(images.mean((1, 2, 3))) > 100
    assert np.ptp(images.std((1, 2, 3))) > 40
    steps = np.abs(np.diff(images, axis=3)).mean((1, 2, 3)) / images.std((1, 2, 3))
    assert steps.max() > 5 * steps.min(), "some change at every pixel, some in large parts"
    assert len({image.tobytes() for image in images}) == 64
