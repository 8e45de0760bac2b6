"""Labelled images: a folder per class, optionally narrowed by a list of paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeoe.data.images import SUFFIXES, Images, find_images
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import DataError
from edgeoe.progress import Progress, silent
from edgeoe.registry import nearest

__all__ = ["SampleFiles", "Samples", "find_samples", "find_test", "load_samples", "rarest"]


@dataclass(frozen=True, slots=True)
class SampleFiles:
    """Files and labels; labels index `classes`, which are the folders' names in alphabetical order."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def counts_k(self) -> NDArray[np.int64]:
        """(K,) images per class."""
        return np.bincount(np.asarray(self.labels, np.int64), minlength=len(self.classes))


@dataclass(frozen=True, slots=True)
class Samples:
    """Few-shot or test samples: images, labels (N,) int64, and the names of the K classes."""

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


def find_samples(folder: Path, list_file: Path | None = None, *, none_allowed: bool = False) -> SampleFiles:
    """The images of a folder per class.

    list_file: text, one path relative to `folder` a line; blank lines and lines that start with # are skipped.
    none_allowed: the folders, or the list, may be empty, so that only the classes' names are known.
    Raises DataError for a missing folder, no classes, no images, or a listed path that is not there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. It must hold one folder of images per class.")
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(classes) < 2:
        raise DataError(
            f"{folder}: must hold one folder of images per class, at least 2. Got {len(classes)} folder(s)."
        )
    if list_file is None:
        found = [(path, k) for k, name in enumerate(classes) for path in find_images(folder / name)]
    else:
        found = _listed(folder, list_file, classes)
    if not found and not none_allowed:
        raise DataError(f"{list_file or folder}: no images. Allowed: {', '.join(sorted(SUFFIXES))}.")
    return SampleFiles(tuple(p for p, _ in found), tuple(k for _, k in found), classes)


def _listed(folder: Path, list_file: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    try:
        lines = list_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as reason:
        raise DataError(f"{list_file}: can't be read as a list of paths: {reason}") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        path, name = folder / entry, Path(entry).parts[0] if Path(entry).parts else entry
        if ".." in Path(entry).parts:
            raise DataError(f"{list_file}:{number}: {entry!r} leads out of its class. Write the path without '..'.")
        if name not in classes:
            raise DataError(f"{list_file}:{number}: no class {name!r} in {folder}. {nearest(name, classes)}")
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{list_file}:{number}: {entry!r} is no image in {folder}. Paths are relative to --samples."
            )
        found[path] = classes.index(name)
    return sorted(found.items())


def find_test(folder: Path, classes: Sequence[str]) -> SampleFiles:
    """The test images of a folder per class, labelled by the classes of the few samples.

    A class may lack test images. Raises DataError for a folder that is none of `classes`, or no images.
    """
    found = find_samples(folder)
    for name in found.classes:
        if name not in classes:
            raise DataError(f"{folder / name}: no class {name!r} among the few samples. {nearest(name, classes)}")
    labels = tuple(classes.index(found.classes[k]) for k in found.labels)
    return SampleFiles(found.paths, labels, tuple(classes))


def load_samples(
    files: SampleFiles, preprocess: Preprocess, *, progress: Progress = silent, title: str = "Reading samples"
) -> Samples:
    """The images behind `files`. Raises DataError, naming the file, for one that can't be decoded."""
    images = Images(files.paths, preprocess, progress=progress, title=title)
    return Samples(images, np.asarray(files.labels, np.int64), files.classes)
