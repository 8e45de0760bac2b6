"""Which image files can be read here, and how one is opened: its first frame, upright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from edgeoe.errors import pass_on_out_of_memory

__all__ = ["UNREADABLE", "eight_bits", "open_image", "readable_suffixes", "remedy_for", "upright"]

UNREADABLE = (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError)
_ALWAYS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jfif"})
_HEIC = frozenset({".heic", ".heif", ".hif"})
_AVIF = frozenset({".avif"})
_OTHERS = frozenset(  # pictures all the same, whose owner should hear that they are not used
    (  # noqa: SIM905 - a row of them reads better
        ".jpe .jp2 .j2k .jxl .jxr .pbm .pgm .ppm .pnm .pcx .tga .dds .exr .hdr .ico .icns .psd .xcf .svg .eps .ai "
        ".dng .cr2 .cr3 .nef .arw .orf .raf .rw2 .raw .dcm .nii .fits"
    ).split()
)
_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright


@cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the image files that this installation reads."""
    avif = "avif" in features.modules and features.check("avif")
    return _ALWAYS | (_HEIC if find_spec("pillow_heif") else frozenset()) | (_AVIF if avif else frozenset())


def remedy_for(suffix: str) -> str | None:
    """How to make use of image files of `suffix`, which is not readable here; None if it is no image's suffix."""
    if suffix in readable_suffixes():
        return None
    if suffix in _HEIC:
        return "pip install pillow-heif to read them"
    if suffix in _AVIF:
        return "pip install 'pillow>=11.3' to read them"
    return "convert them to PNG or JPEG" if suffix in _OTHERS else None


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """The image in file `path`, not yet decoded. Raises one of UNREADABLE if it is none."""
    if path.suffix.lower() in _HEIC:
        _register_heic()
    with Image.open(path) as image:
        yield image


@cache
def _register_heic() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()


def upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation says; itself where that is upright, absent or unreadable."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    except Exception as reason:  # a broken EXIF block; the pixels are whole
        pass_on_out_of_memory(reason)
        return image
    return ImageOps.exif_transpose(image) if turned else image


def eight_bits(image: Image.Image) -> Image.Image:
    """`image` with 8 bits a channel: 16-bit greyscale is scaled (Pillow alone would clip it to white).

    Raises ValueError for 32-bit and floating-point images, whose range nobody states.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} has no stated range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    return image
