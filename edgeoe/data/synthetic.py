"""Computed images, noise and dead leaves, for checks that must not use anybody's pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["synthetic_images"]

Shape = tuple[int, int, int]


def synthetic_images(count: int, shape: Shape, *, seed: int) -> NDArray[np.uint8]:
    """(count, C, H, W) uint8 images, by turns noise of a random coarseness and dead leaves, in random colours.

    shape: (C, H, W) of an image.
    The same arguments give the same images. Source of dead leaves: Lee, Mumford and Huang, IJCV 2001; of their use in
    place of photographs: Baradad et al., NeurIPS 2021.
    """
    kinds: tuple[Callable[[Shape, np.random.Generator], NDArray[np.float64]], ...] = (_noise, _dead_leaves)
    generators = np.random.default_rng(seed).spawn(count)
    images = [kinds[number % len(kinds)](shape, rng) for number, rng in enumerate(generators)]
    return np.stack([np.clip(np.round(image), 0, 255).astype(np.uint8) for image in images])


def _noise(shape: Shape, rng: np.random.Generator) -> NDArray[np.float64]:
    """Uniform noise on a grid of 1 pixel up to the whole image, around a random colour, with a random contrast."""
    channels, height, width = shape
    cell = int(2 ** rng.uniform(0, np.log2(max(2, min(height, width)))))
    coarse = rng.uniform(-1, 1, (channels, -(-height // cell), -(-width // cell)))
    fine = coarse.repeat(cell, 1).repeat(cell, 2)[:, :height, :width]
    return np.asarray(rng.uniform(0, 255, (channels, 1, 1)) + rng.uniform(20, 255) * fine, np.float64)


def _dead_leaves(shape: Shape, rng: np.random.Generator) -> NDArray[np.float64]:
    """Discs that hide one another, of random colours, with radii as in natural images: density ~ radius^-3."""
    channels, height, width = shape
    image = np.broadcast_to(rng.uniform(0, 255, (channels, 1, 1)), shape).copy()
    y, x = np.mgrid[:height, :width]
    smallest, largest = 0.05 * min(height, width), 0.5 * min(height, width)
    for _ in range(40):
        radius = (largest**-2 + rng.uniform() * (smallest**-2 - largest**-2)) ** -0.5
        disc = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)) < radius
        image[:, disc] = rng.uniform(0, 255, (channels, 1))
    return np.asarray(image, np.float64)
