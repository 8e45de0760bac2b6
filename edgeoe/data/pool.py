"""The OOD pool: unlabelled images of any kind."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from edgeoe.data.formats import readable_suffixes
from edgeoe.data.images import Images
from edgeoe.data.listing import Listing, list_images
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


def load_pool(where: Path | Listing, preprocess: Preprocess, *, progress: Progress = silent) -> Pool:
    """Load every readable image below a folder; skipped files are logged as warnings.

    where: the folder, or its listing.
    Raises DataError if the folder is missing or has no readable image.
    """
    listing = where if isinstance(where, Listing) else list_images(where)
    for skipped in listing.skipped:
        _log.warning("%s", skipped)
    images = Images(listing.images, preprocess, skip_unreadable=True, progress=progress, title="Reading OOD images")
    if not len(images):
        raise DataError(
            f"{listing.folder}: no readable images for the OOD pool. Give a folder of images of any kind: "
            f"{', '.join(sorted(readable_suffixes()))}."
        )
    if images.skipped:
        _log.warning("skipped %d unreadable OOD image(s), the first: %s", len(images.skipped), images.skipped[0])
    return Pool(images)
