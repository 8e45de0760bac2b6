"""Supported image formats, and images of any mode as 8-bit pixels, upright."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from edgeoe.errors import pass_on_out_of_memory

__all__ = ["AVIF", "HEIC", "UNREADABLE", "eight_bits", "in_mode", "readable_suffixes", "remedy_for", "upright"]

UNREADABLE = (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError)
_ALWAYS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jfif"})
HEIC = frozenset({".heic", ".heif", ".hif"})
AVIF = frozenset({".avif"})
_OTHERS = frozenset(  # images that are not read, but reported as skipped
    (  # noqa: SIM905 - more readable than a list of strings
        ".jpe .jp2 .j2k .jxl .jxr .pbm .pgm .ppm .pnm .pcx .tga .dds .exr .hdr .ico .icns .psd .xcf .svg .eps .ai "
        ".dng .cr2 .cr3 .nef .arw .orf .raf .rw2 .raw .dcm .nii .fits"
    ).split()
)
_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright


@cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the image files that this installation can read."""
    avif = "avif" in features.modules and features.check("avif")
    return _ALWAYS | (HEIC if find_spec("pillow_heif") else frozenset()) | (AVIF if avif else frozenset())


def remedy_for(suffix: str) -> str | None:
    """How to make image files of an unreadable `suffix` usable; None if it is readable or not that of an image."""
    if suffix in readable_suffixes():
        return None
    if suffix in HEIC:
        return "pip install pillow-heif to read them"
    if suffix in AVIF:
        return "pip install 'pillow>=11.3' to read them"
    return "convert them to PNG or JPEG" if suffix in _OTHERS else None


def upright(image: Image.Image) -> Image.Image:
    """`image` rotated according to its EXIF orientation; unchanged if that is upright, absent or unreadable."""
    try:
        rotated = image.getexif().get(_ORIENTATION, 1) != 1
    except Exception as reason:  # a damaged EXIF block; the pixels are intact
        pass_on_out_of_memory(reason)
        return image
    return ImageOps.exif_transpose(image) if rotated else image


def eight_bits(image: Image.Image) -> Image.Image:
    """`image` with 8 bits per channel; 16-bit greyscale is scaled, where Pillow would clip it to white.

    Raises ValueError for 32-bit and floating-point images, whose value range is unknown.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} has an unknown value range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    return image


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """`image` converted to `mode`, without the copy that Pillow makes of one that has it."""
    image.load()
    return image if image.mode == mode else image.convert(mode)
