"""Labelled images: one folder per class, optionally restricted by a list of paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeoe.data.formats import readable_suffixes
from edgeoe.data.images import Images
from edgeoe.data.listing import Bounds, Skipped, class_folders, list_images, merged
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.sample_list import listed_images
from edgeoe.errors import DataError
from edgeoe.progress import Progress, silent
from edgeoe.registry import nearest

__all__ = ["SampleFiles", "Samples", "find_samples", "find_test", "load_samples", "rarest"]

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev"})


@dataclass(frozen=True, slots=True)
class SampleFiles:
    """Image files and their labels, which index `classes`.

    skipped: entries of the folders that are not used.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def counts_k(self) -> NDArray[np.int64]:
        """(K,) images per class."""
        return np.bincount(np.asarray(self.labels, np.int64), minlength=len(self.classes))


@dataclass(frozen=True, slots=True)
class Samples:
    """Labelled samples or test images.

    labels: (N,) int64, indices into `classes`.
    classes: names of the K classes.
    """

    images: Images
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @property
    def counts_k(self) -> NDArray[np.int64]:
        """(K,) images per class."""
        return np.bincount(self.labels, minlength=len(self.classes))


def rarest(counts_k: NDArray[np.int64], n: int = 3) -> tuple[int, ...]:
    """The `n` classes with the fewest samples, rarest first; ties in class order."""
    return tuple(int(k) for k in np.argsort(counts_k, kind="stable")[:n])


def find_samples(
    folder: Path,
    list_file: Path | None = None,
    *,
    classes: Sequence[str] = (),
    none_allowed: bool = False,
    follow_links: bool = False,
) -> SampleFiles:
    """Find the labelled images below `folder`, which has one folder per class.

    list_file: use only the images that this text file lists, one path a line.
    classes: in the order of the teacher's outputs; a class without a folder has no images. Default: the folder names in
        alphabetical order.
    none_allowed: accept folders without images, which still give the class names.
    follow_links: follow links that lead out of `folder`.
    Raises DataError for a missing folder, fewer than 2 classes, a folder that is not in `classes`, class folders that
    are nested one level too deep, no images, a link that leads out, or a line of the list that is not an image.
    """
    bounds = Bounds(None if follow_links else folder)
    folders, skipped = _class_folders(folder, classes, "--samples", bounds)
    unknown = [name for name in folders if classes and name not in classes]
    if unknown:
        raise DataError(
            f"{folder / unknown[0]}: no class {unknown[0]!r} among the {len(classes)} of --classes. "
            f"{nearest(unknown[0], classes)}"
        )
    names = tuple(classes) or tuple(folders)
    if list_file is None:
        return _in_folders(folder, folders, names, skipped, bounds, none_allowed=none_allowed)
    listed = listed_images(list_file, folder, list(folders), bounds)
    return SampleFiles(tuple(listed), tuple(names.index(name) for name in listed.values()), names)


def find_test(folder: Path, classes: Sequence[str], *, follow_links: bool = False) -> SampleFiles:
    """Find the test images below `folder`, which has one folder per class.

    classes: those of the labelled samples, which labels index; a class may have no test images.
    follow_links: follow links that lead out of `folder`.
    Raises DataError as find_samples does.
    """
    bounds = Bounds(None if follow_links else folder)
    folders, skipped = _class_folders(folder, classes, "--test", bounds)
    for name in folders:
        if name not in classes:
            raise DataError(f"{folder / name}: no class {name!r} among the labelled samples. {nearest(name, classes)}")
    return _in_folders(folder, folders, tuple(classes), skipped, bounds, none_allowed=False)


def _class_folders(
    folder: Path, classes: Sequence[str], option: str, bounds: Bounds
) -> tuple[dict[str, Path], tuple[Skipped, ...]]:
    """The class folders in `folder` by name, in alphabetical order.

    option: the option that names the folder, for messages.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. It must hold one folder of images per class.")
    folders, skipped = class_folders(folder, bounds)
    for name, path in folders.items():
        if (
            name not in classes
            and (len(folders) == 1 or name.lower() in _SPLITS)
            and (inner := _inner_classes(path, bounds))
        ):
            raise DataError(
                f"{path}: holds folders of images ({', '.join(inner[:3])}{', ...' if inner[3:] else ''}) and is not "
                f"a class folder itself. Did you mean {option} {path}?"
            )
    if len(folders) < (1 if classes else 2):
        raise DataError(
            f"{folder}: must hold one folder of images per class, at least 2. Got {len(folders)} folder(s)."
        )
    return folders, skipped


def _inner_classes(folder: Path, bounds: Bounds) -> list[str]:
    """The folders with images in `folder`, if there are at least two and no image beside them."""
    folders, skipped = class_folders(folder, bounds)
    classes = [] if skipped else [name for name, path in folders.items() if list_images(path, bounds=bounds).images]
    return classes if len(classes) > 1 else []


def _in_folders(
    folder: Path,
    folders: Mapping[str, Path],
    classes: tuple[str, ...],
    skipped: tuple[Skipped, ...],
    bounds: Bounds,
    *,
    none_allowed: bool,
) -> SampleFiles:
    """All images of `folders`, class by class."""
    listings = {classes.index(name): list_images(path, bounds=bounds) for name, path in folders.items()}
    images = [(path, k) for k, listing in listings.items() for path in listing.images]
    skipped = merged([*skipped, *(each for listing in listings.values() for each in listing.skipped)])
    if not images and not none_allowed:
        notes = "".join(f" Note: {each}" for each in skipped)
        raise DataError(f"{folder}: no images. Allowed: {', '.join(sorted(readable_suffixes()))}.{notes}")
    return SampleFiles(tuple(p for p, _ in images), tuple(k for _, k in images), classes, skipped)


def load_samples(
    files: SampleFiles, preprocess: Preprocess, *, progress: Progress = silent, title: str = "Reading samples"
) -> Samples:
    """Load the images of `files`. Raises DataError, naming the file, for one that can't be decoded."""
    images = Images(files.paths, preprocess, progress=progress, title=title)
    return Samples(images, np.asarray(files.labels, np.int64), files.classes)
