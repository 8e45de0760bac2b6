"""What is in a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from edgeoe.bounds import Positive
from edgeoe.targets.profile import Target

__all__ = ["FORMAT", "BundleFacts", "BundleRecord", "Normalisation", "TestFacts"]

FORMAT = 3  # of bundle.json


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRecord:
    """The archive that `bundle` wrote.

    path: of the archive.
    sha256: of the archive.
    test_images: number of test images in it, for accuracy on the device; 0 for none.
    files: names of the files in it.
    """

    path: str
    sha256: str
    size_bytes: int
    target: str
    precision: str
    test_images: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of images scaled to 0..1, one value for each channel."""

    mean: tuple[float, ...]
    std: tuple[Positive, ...]


@dataclass(frozen=True, slots=True)
class TestFacts:
    """What tells whether predictions are of the bundle's test images.

    images: how many there are.
    labels_sha256: of the labels.
    test_sha256: of pixels and labels.
    """

    __test__ = False  # no test of pytest

    images: Annotated[int, Ge(1)]
    labels_sha256: str
    test_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """`bundle.json`: all that a device must know beside the graph and the images.

    edgeoe: the version that made the bundle.
    classes: names of all classes.
    rare: indices of those with the fewest few samples.
    preprocess: how pixels become inputs.
    graph: what `export` recorded of the graph.
    size_bytes: of the graph.
    test: None without test images.
    files: sha256 of every other file in the bundle.
    """

    edgeoe: str
    target: Target
    classes: tuple[str, ...]
    rare: tuple[Annotated[int, Ge(0)], ...]
    preprocess: Normalisation
    graph: dict[str, Any]
    size_bytes: Annotated[int, Ge(1)]
    test: TestFacts | None
    files: dict[str, str]
