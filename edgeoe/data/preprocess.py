"""Preprocessing of images to network inputs: size, interpolation, mean and standard deviation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from edgeoe.bounds import Positive
from edgeoe.data.pixels import normalise
from edgeoe.errors import ConfigError
from edgeoe.settings import Interpolation, PreprocessSettings

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Preprocess"]

_MOST_PIXELS = 2**27  # of an input: 400 MB of an image
_MOST_RESIZED = 2**24  # pixels of a resized image; a larger one, of a long strip, is cropped first


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Resize the shorter side, crop the centre, scale to 0..1, normalise.

    size: (H, W) of the network's input.
    mean: C values, C = 1 (greyscale) or 3 (RGB).
    std: C values.
    crop_fraction: the central share of the resized image that is kept, as timm's crop_pct.
    """

    size: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]]
    mean: tuple[float, ...]
    std: tuple[Positive, ...]
    interpolation: Interpolation = "bilinear"
    crop_fraction: Positive = 1.0

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.channels, *self.size)

    @classmethod
    def resolve(cls, default: Preprocess | None, settings: PreprocessSettings) -> Preprocess:
        """The preprocessing of a teacher, with `settings` taking precedence.

        default: what the teacher declares; None if it declares nothing.
        Raises ConfigError if a value is missing from both, or if they don't fit together.
        """
        settings.require_scaled()
        overrides = {key: value for key, value in asdict(settings).items() if value is not None}
        if default is None:
            missing = [key for key in ("size", "mean", "std") if key not in overrides]
            if missing:
                raise ConfigError(
                    f"this teacher does not declare its preprocessing: set {', '.join(missing)} under "
                    "[preprocess] in edgeoe.toml, e.g. size = [32, 32], mean = [0.5, 0.5, 0.5], "
                    "std = [0.5, 0.5, 0.5]."
                )
            result = cls(**overrides)
        else:
            result = replace(default, **overrides)
        if len(result.mean) != len(result.std) or len(result.mean) not in (1, 3):
            raise ConfigError(
                "[preprocess] mean and std must both have 1 value (greyscale) or 3 (RGB). "
                f"Got {len(result.mean)} and {len(result.std)}."
            )
        return result

    def require_possible(self) -> None:
        """Raise ValueError, naming the field, for values that fit no network, as a file from elsewhere may hold."""
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(f"mean and std: expected 1 or 3 values each. Got {len(self.mean)} and {len(self.std)}")
        height, width = self.size
        if height * width > _MOST_PIXELS:
            raise ValueError(f"size: expected at most {_MOST_PIXELS:,} pixels. Got {height:,} x {width:,}")

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Rotate `image`, of any size and mode, upright, resize and crop it to (C, H, W) uint8."""
        from PIL import Image

        from edgeoe.data.formats import eight_bits, in_mode, upright

        image = in_mode(eight_bits(upright(image)), "L" if self.channels == 1 else "RGB")
        height, width = self.size
        scale = max(height / image.height, width / image.width) / self.crop_fraction
        resized = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        resampling = Image.Resampling[self.interpolation.upper()]
        if resized[0] * resized[1] > _MOST_RESIZED:
            image = image.resize((width, height), resampling, box=_centre(image.size, width / scale, height / scale))
        elif resized != image.size:
            image = image.resize(resized, resampling)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        if image.size != (width, height):
            image = image.crop((left, top, left + width, top + height))
        array = np.asarray(image, dtype=np.uint8)
        return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, C, H, W) uint8 -> float32 network input."""
        return normalise(pixels, mean=self.mean, std=self.std)


def _centre(size: tuple[int, int], width: float, height: float) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) of `width` by `height` in the centre of an image of `size`."""
    left, top = (max(0.0, (whole - part) / 2) for whole, part in zip(size, (width, height), strict=True))
    return left, top, size[0] - left, size[1] - top
