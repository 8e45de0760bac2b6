"""Records of a bundle and its content."""

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
    test_images: number of test images in it, for accuracy on the device.
    files: names of the files in it.
    signature: path of its signature; empty if it is not signed.
    """

    path: str
    sha256: str
    size_bytes: int
    target: str
    precision: str
    test_images: int
    files: tuple[str, ...]
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of images scaled to 0..1, one value per channel."""

    mean: tuple[float, ...]
    std: tuple[Positive, ...]


@dataclass(frozen=True, slots=True)
class TestFacts:
    """Identity of a bundle's test images, by which predictions are matched to them.

    images: number of images.
    labels_sha256: of the labels.
    test_sha256: of pixels and labels.
    """

    __test__ = False  # not a pytest class

    images: Annotated[int, Ge(1)]
    labels_sha256: str
    test_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """Content of `bundle.json`: what a device needs besides the graph and the images.

    edgeoe: the version that created the bundle.
    classes: names of all classes.
    rare: indices of those with the fewest labelled samples.
    preprocess: normalisation of pixels to inputs.
    graph: record that `export` wrote for the graph.
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
