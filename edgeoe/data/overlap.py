"""Detection of images that two sets share, by content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeoe.data.images import Images
from edgeoe.files import file_sha256

__all__ = ["copies", "shared"]


def shared(images: Images, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Indices of the images whose pixel hash is among `digests`; images that have not been read never match."""
    return np.flatnonzero(np.isin(images.digests, digests[digests != 0]))


def copies(files: Sequence[Path], among: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs of a file in `files` and a file in `among` with the same bytes; only files of equal size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in files:
        by_size[path.stat().st_size].append(path)
    content = cache(file_sha256)
    return [
        (file, path)
        for path in among
        for file in by_size.get(path.stat().st_size, ())
        if content(file) == content(path)
    ]
