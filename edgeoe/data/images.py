"""A list of image files as pixel arrays: kept in memory if they fit, otherwise decoded on demand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeoe.data.decoding import decoded_image, in_order, open_image
from edgeoe.data.formats import UNREADABLE
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import DataError, pass_on_out_of_memory
from edgeoe.progress import Progress, silent

__all__ = ["Images"]

_MEMORY_SHARE = 0.25  # of the free memory, at most, for one list of images


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Convert Pillow's exceptions about a file to a DataError that names it."""
    try:
        yield
    except UNREADABLE as reason:
        pass_on_out_of_memory(reason)
        raise DataError(f"{path}: can't be read as an image ({reason}). Remove or replace it.") from None


def _free_bytes() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on every system
        return 2**31


def _digest(pixels: NDArray[np.uint8]) -> int:
    """A nonzero hash of contiguous `pixels`."""
    return int.from_bytes(hashlib.blake2b(pixels.data, digest_size=8).digest(), "little") or 1


class Images:
    """Images as uint8 rows (C, H, W).

    paths: the image files.
    memory_bytes: keep the decoded images if they take at most this much; None means a quarter of the free memory.
    skip_unreadable: skip files that can't be decoded (if streamed: that can't be opened) and list them in `skipped`,
        instead of raising.
    title: of the progress bar.
    Raises DataError, naming the file, for an image that can't be decoded.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocess: Preprocess,
        *,
        memory_bytes: int | None = None,
        skip_unreadable: bool = False,
        progress: Progress = silent,
        title: str = "Reading images",
    ) -> None:
        self.preprocess = preprocess
        self.memory: NDArray[np.uint8] | None = None
        self._threads = ThreadPoolExecutor(thread_name_prefix="decode")
        self._digests = np.zeros(len(paths), np.uint64)
        need = len(paths) * int(np.prod(preprocess.shape))
        if need <= (_free_bytes() * _MEMORY_SHARE if memory_bytes is None else memory_bytes):
            memory = np.empty((len(paths), *preprocess.shape), np.uint8)
            readable = self._each(paths, self._decode_into(memory), skip_unreadable, progress, title)
            self.memory = memory[readable]
        else:
            readable = self._each(paths, self._open, skip_unreadable, progress, title)
        self._digests = self._digests[readable]
        self.paths = tuple(path for path, good in zip(paths, readable, strict=True) if good)
        self.skipped = tuple(path for path, good in zip(paths, readable, strict=True) if not good)

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, C, H, W) uint8 of the images at `indices`, in that order."""
        if self.memory is not None:
            return self.memory[np.asarray(indices, np.int64)]
        return np.stack(list(in_order(self._threads, self._decode_again, indices)))

    def read_all(self, *, progress: Progress = silent, title: str = "Reading images") -> None:
        """Decode streamed images that have not been read yet, so that all `digests` are known."""
        unread = np.flatnonzero(self._digests == 0)
        if len(unread):
            with progress(title, len(unread)) as advance:
                for _ in in_order(self._threads, self._decode_again, unread.tolist()):
                    advance()

    @property
    def digests(self) -> NDArray[np.uint64]:
        """(N,) hashes of the preprocessed pixels; 0 for a streamed image that has not been read yet."""
        return np.array(self._digests)

    def _each(
        self,
        paths: Sequence[Path],
        read: Callable[[int, Path], object],
        skip_unreadable: bool,
        progress: Progress,
        title: str,
    ) -> NDArray[np.bool_]:
        """(N,) whether `read(row, path)` succeeded for each path."""

        def reads(row: int) -> bool:
            try:
                read(row, paths[row])
            except DataError:
                if not skip_unreadable:
                    raise
                return False
            return True

        readable = np.zeros(len(paths), np.bool_)
        with progress(title, len(paths)) as advance:
            for row, good in enumerate(in_order(self._threads, reads, range(len(paths)))):
                readable[row] = good
                advance()
        return readable

    def _decode_into(self, memory: NDArray[np.uint8]) -> Callable[[int, Path], None]:
        def read(row: int, path: Path) -> None:
            memory[row] = self._decode(path)
            self._digests[row] = _digest(memory[row])

        return read

    def _decode_again(self, index: int) -> NDArray[np.uint8]:
        pixels = self._decode(self.paths[index])
        self._digests[index] = _digest(pixels)
        return pixels

    def _open(self, row: int, path: Path) -> None:  # noqa: ARG002 - same signature as _decode_into's
        with _naming(path), open_image(path):
            pass

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        with _naming(path), decoded_image(path) as image:
            return self.preprocess.pixels(image)
