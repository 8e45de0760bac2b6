"""Images that two sets share, by content."""

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
    """Indices of those of `images` whose pixels have one of `digests`; images that were not read have none."""
    return np.flatnonzero(np.isin(images.digests, digests[digests != 0]))


def copies(files: Sequence[Path], among: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs of one of `files` and one of `among` with the same bytes; only files of the same size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in files:
        by_size[path.stat().st_size].append(path)
    content = cache(file_sha256)
    return [
        (own, path) for path in among for own in by_size.get(path.stat().st_size, ()) if content(own) == content(path)
    ]
