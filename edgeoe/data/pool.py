"""The OOD pool: any pile of pictures, without labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from edgeoe.data.images import Images, find_images
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import DataError
from edgeoe.progress import Progress, silent

__all__ = ["Pool", "load_pool"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pool:
    """Out-of-distribution images."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)


def load_pool(folder: Path, preprocess: Preprocess, *, progress: Progress = silent) -> Pool:
    """Every readable image below `folder`; how many were not is logged as a warning.

    Raises DataError if `folder` is missing or has no readable image.
    """
    images = Images(
        find_images(folder), preprocess, skip_unreadable=True, progress=progress, title="Reading OOD images"
    )
    if not len(images):
        raise DataError(f"{folder}: no readable images for the OOD pool. Give a folder of any pictures.")
    if images.skipped:
        _log.warning("left out %d unreadable OOD image(s), the first: %s", len(images.skipped), images.skipped[0])
    return Pool(images)
