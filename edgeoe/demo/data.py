"""The demo's images, as folders of PNG files: handwritten digits, and patches of photographs as OOD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgeoe.progress import Progress, silent

__all__ = ["COUNTS", "DemoFolders", "write_images"]

COUNTS = (31, 21, 15, 11, 7, 5, 4, 3, 2, 1)  # few samples a class: 10 on average, imbalance 31
_TEST_SHARE, _PATCHES = 0.45, 2000


@dataclass(frozen=True, slots=True)
class DemoFolders:
    """train and test: a folder per class. few: the list of few samples within train. ood: photograph patches."""

    train: Path
    test: Path
    few: Path
    ood: Path


def write_images(folder: Path, *, seed: int, progress: Progress = silent) -> DemoFolders:
    """Write scikit-learn's 1,797 digits (8x8) and 2,000 patches of its two photographs below `folder`.

    `seed` decides which digits are for testing, which class is rare, and where the patches lie.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(seed)
    folders = DemoFolders(folder / "train", folder / "test", folder / "few.txt", folder / "ood")
    testing = rng.random(len(digits.target)) < _TEST_SHARE
    few, left = [], dict(zip(rng.permutation(10).tolist(), COUNTS, strict=True))
    with progress("Writing images", len(digits.target) + _PATCHES) as advance:
        for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            name = f"{label}/{number:04d}.png"
            path = (folders.test if testing[number] else folders.train) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(path)
            if not testing[number] and left[int(label)]:
                left[int(label)] -= 1
                few.append(name)
            advance()
        folders.few.write_text("\n".join(few) + "\n", encoding="utf-8")
        folders.ood.mkdir()
        for number, patch in enumerate(_patches(rng)):
            patch.save(folders.ood / f"{number:04d}.png")
            advance()
    return folders


def _patches(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Squares of 8 to 64 pixels anywhere in the photographs, brought to the digits' look: greyscale, 8x8, and
    only what is brighter than most of the patch, on black."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image).convert("L") for image in load_sample_images().images]
    for number in range(_PATCHES):
        photograph = photographs[number % len(photographs)]
        side = int(rng.integers(8, 65))
        left, top = (int(rng.integers(0, extent - side)) for extent in photograph.size)
        patch = photograph.crop((left, top, left + side, top + side)).resize((8, 8), Image.Resampling.BOX)
        pixels = np.asarray(patch, np.float64)
        floor = np.percentile(pixels, 60)
        stretched = (pixels - floor) / max(pixels.max() - floor, 1.0)
        yield Image.fromarray(np.round(stretched.clip(0, 1) * 255).astype(np.uint8))
