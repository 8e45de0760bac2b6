"""The demo's images, as folders of PNG files: handwritten digits, and printed letters as OOD images.

scikit-learn lists its 1,797 digits sheet by sheet: 14 times a person copied the same sequence. The last four sheets are
the test images and the others are for training, so that networks are tested on unseen handwriting.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeoe.progress import Progress, silent

__all__ = ["COUNTS", "TRAINING", "DemoFolders", "Digits", "draw_few", "letters", "load_digits", "write_images"]

COUNTS = (20, 10, 6, 4, 3, 2, 2, 1, 1, 1)  # labelled samples per class: 5 on average, imbalance 20
TRAINING = 1287  # digits of the first ten sheets
_LETTERS = 2000
_BLACK_OR_WHITE = [255 * (value > 127) for value in range(256)]


@dataclass(frozen=True, slots=True)
class Digits:
    """Handwritten digits.

    pixels: (N, 8, 8) uint8, white on black.
    labels: (N,) int64.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DemoFolders:
    """Folders and lists of the demo's images.

    train: digits for training, one folder per class.
    test: digits for testing, one folder per class.
    few: lists of labelled samples within `train`, one per seed.
    ood: letters.
    """

    train: Path
    test: Path
    few: tuple[Path, ...]
    ood: Path


def load_digits() -> tuple[Digits, Digits]:
    """Load scikit-learn's digits: those for training, those for testing."""
    from sklearn import datasets

    digits = datasets.load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    return Digits(pixels[:TRAINING], labels[:TRAINING]), Digits(pixels[TRAINING:], labels[TRAINING:])


def draw_few(labels: NDArray[np.int64], *, seed: int, counts: Sequence[int] = COUNTS) -> NDArray[np.int64]:
    """Draw an imbalanced set of labelled samples: their ascending indices.

    labels: (N,) classes to draw from.
    seed: decides which samples are drawn, and which class gets which count.
    counts: samples per class; a random permutation assigns them to the classes.
    """
    rng = np.random.default_rng(seed)
    classes = rng.permutation(len(counts))
    indices = [
        rng.choice(np.flatnonzero(labels == k), count, replace=False) for k, count in zip(classes, counts, strict=True)
    ]
    return np.sort(np.concatenate(indices))


def letters(count: int, *, seed: int) -> Iterator[Image.Image]:
    """Yield `count` letters in Pillow's default font with random stroke width, slant and rotation.

    They are scanned as the digits were: an 8x8 image, each pixel the share of white in a 4x4 block of a 32x32 bitmap.
    """
    rng = np.random.default_rng(seed)
    font = ImageFont.load_default(96)
    for _ in range(count):
        canvas = Image.new("L", (256, 256))
        letter, stroke = string.ascii_letters[rng.integers(len(string.ascii_letters))], int(rng.integers(9))
        ImageDraw.Draw(canvas).text((128, 128), letter, 255, font=font, anchor="mm", stroke_width=stroke)
        slant, angle = rng.uniform(-0.3, 0.3), rng.uniform(-15, 15)
        slanted = canvas.transform(canvas.size, Image.Transform.AFFINE, (1, slant, -128 * slant, 0, 1, 0))
        yield _scanned(slanted.rotate(float(angle)))


def _scanned(image: Image.Image) -> Image.Image:
    """Crop `image` to its white part, fit that into 32x32 pixels and reduce it to 8x8."""
    glyph = image.crop(image.getbbox())
    scale = 32 / max(glyph.size)
    glyph = glyph.resize((max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))))
    bitmap = Image.new("L", (32, 32))
    bitmap.paste(glyph, ((32 - glyph.width) // 2, (32 - glyph.height) // 2))
    return bitmap.point(_BLACK_OR_WHITE).resize((8, 8), Image.Resampling.BOX)


def write_images(
    folder: Path,
    *,
    train: Digits,
    test: Digits,
    seeds: Sequence[int],
    counts: Sequence[int] = COUNTS,
    progress: Progress = silent,
) -> DemoFolders:
    """Write the digits, the same 2,000 letters each time, and one list of labelled samples per seed."""
    folders = DemoFolders(
        train=folder / "train",
        test=folder / "test",
        few=tuple(folder / f"few-{seed}.txt" for seed in seeds),
        ood=folder / "ood",
    )
    with progress("Writing images", len(train.labels) + len(test.labels) + _LETTERS) as advance:
        for part, digits in ((folders.train, train), (folders.test, test)):
            for number, (pixels, label) in enumerate(zip(digits.pixels, digits.labels, strict=True)):
                path = part / _name(number, label)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
                advance()
        folders.ood.mkdir()
        for number, letter in enumerate(letters(_LETTERS, seed=0)):
            letter.save(folders.ood / f"{number:04d}.png")
            advance()
    for path, seed in zip(folders.few, seeds, strict=True):
        names = [_name(number, train.labels[number]) for number in draw_few(train.labels, seed=seed, counts=counts)]
        path.write_text("\n".join(names) + "\n", encoding="utf-8")
    return folders


def _name(number: int | np.int64, label: np.int64) -> str:
    return f"{label}/{number:04d}.png"
