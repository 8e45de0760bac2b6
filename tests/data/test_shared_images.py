"""Images that two sets share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeoe.data.overlap import shared


@dataclass
class Read:
    """Images of which only the digests are known; 0 is one that was not read."""

    digests: NDArray[np.uint64]


def test_images_that_were_not_read_are_shared_with_none() -> None:
    images = Read(np.array([0, 5, 1, 0, 9], np.uint64))
    assert shared(images, np.array([0, 1, 7, 9, 2**64 - 1], np.uint64)).tolist() == [2, 4]  # type: ignore[arg-type]
