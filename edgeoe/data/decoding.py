"""Opening and decoding of image files, within limits: of formats, of one file, and of all decoded at the same time.

Every image file is opened here, so that no other decoder sees it: Pillow would start an interpreter for a PostScript
file that is named photo.jpg.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

from PIL import Image, _imaging

from edgeoe.data.formats import AVIF, HEIC

__all__ = ["MOST_ASPECT", "MOST_BYTES", "MOST_PIXELS", "ByteBudget", "decoded_image", "in_order", "open_image"]

_imaging.set_block_size(2**26)  # malloc gives larger blocks back to the system, and keeps smaller ones per thread

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT_BYTES = 2**30  # of all images that are decoded at the same time
_BYTES_PER_PIXEL = 8  # Pillow's RGB takes 4, and a conversion or rotation as many again
_BYTES_OF_FORMATS = {"JPEG": 10, "MPO": 10, "TIFF": 12, "WEBP": 20}  # with what their libraries take for themselves
MOST_PIXELS = _IN_FLIGHT_BYTES // 12  # of one image: 89 million, as where Pillow warns of a decompression bomb
MOST_BYTES = 2**29  # of one file: so many pixels of 16-bit RGB
MOST_ASPECT = 256  # longer side over shorter
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_REDUCIBLE = ("JPEG", "MPO")  # decoded at a half, a quarter or an eighth of the size


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open the image file `path` without decoding it.

    Raises one of `UNREADABLE` if it is not an image of a supported format, or is larger than the limits.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"a file of {size / 2**20:,.0f} MiB; at most {MOST_BYTES // 2**20} MiB are read")
    with Image.open(path, formats=_formats_of(path)) as image:
        width, height = image.size
        if image.format in _REDUCIBLE and width * height > MOST_PIXELS:
            image.draft(image.mode, (width // 2, height // 2))  # Pillow opens none of more than twice the limit
        _require_within_limits(image)
        yield image


def _formats_of(path: Path) -> tuple[str, ...]:
    """The formats that a file of this name may have: those of photographs on phones only where the name says so."""
    suffix = path.suffix.lower()
    if suffix in HEIC:
        _register_heic()
        return (*_FORMATS, *({"HEIF"} & Image.OPEN.keys()))
    if suffix in AVIF:
        Image.init()
        return (*_FORMATS, *({"AVIF"} & Image.OPEN.keys()))
    return _FORMATS


@cache
def _register_heic() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()


def _require_within_limits(image: Image.Image) -> None:
    width, height = image.size
    most = min(MOST_PIXELS, _IN_FLIGHT_BYTES // _bytes_per_pixel(image))
    if width * height > most:
        raise ValueError(
            f"{width:,} x {height:,} are {width * height / 1e6:,.1f} million pixels; "
            f"at most {most / 1e6:.1f} million of a {image.format} are decoded"
        )
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise ValueError(f"{width:,} x {height:,} pixels; sides may differ by a factor of {MOST_ASPECT} at most")


def _bytes_per_pixel(image: Image.Image) -> int:
    return _BYTES_OF_FORMATS.get(image.format or "", _BYTES_PER_PIXEL)


class ByteBudget:
    """Bytes that threads share: who takes more than are free waits until others give theirs back.

    most: how many there are; who needs more than that takes all.
    """

    def __init__(self, most: int) -> None:
        self._most = self._free = most
        self._condition = threading.Condition()

    @contextmanager
    def taking(self, count: int) -> Iterator[None]:
        """Take `count` bytes for a block."""
        count = min(count, self._most)
        with self._condition:
            self._condition.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._condition:
                self._free += count
                self._condition.notify_all()


_in_flight = ByteBudget(_IN_FLIGHT_BYTES)


@contextmanager
def decoded_image(path: Path) -> Iterator[Image.Image]:
    """Open the image file `path` for a block that decodes it, when enough of the memory for decoding is free.

    What the block makes of the image must not be as large. Raises what `open_image` and decoding raise.
    """
    with open_image(path) as image, _in_flight.taking(_bytes_per_pixel(image) * image.width * image.height):
        try:
            yield image
        finally:
            image.close()  # and with it the pixels, before others take the memory


def in_order(
    threads: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = 64
) -> Iterator[Result]:
    """`function` of each item, in order, computed by `threads`.

    ahead: how many items at most are begun before the result of the first is taken: so many are left to wait for if
        the work is interrupted.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(threads.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
