"""Listing of the image files below a folder, and of the entries that are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeoe.data.formats import readable_suffixes, remedy_for
from edgeoe.errors import DataError

__all__ = ["Bounds", "Listing", "Skipped", "class_folders", "list_images", "merged"]

_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", ".ipynb_checkpoints", "__pycache__", "lost+found", "$RECYCLE.BIN"})


@dataclass(frozen=True, slots=True)
class Skipped:
    """Files or folders of one kind that are not used.

    what: their kind, for messages.
    count: how many there are.
    first: path of the first.
    remedy: what to do about them.
    """

    what: str
    count: int
    first: str
    remedy: str

    def __str__(self) -> str:
        return f"skipped {self.count} {self.what} (first: {self.first}): {self.remedy}."


@dataclass(frozen=True, slots=True)
class Listing:
    """The image files below a folder, sorted, and the entries that were skipped."""

    folder: Path
    images: tuple[Path, ...]
    skipped: tuple[Skipped, ...]


def merged(skipped: Iterable[Skipped]) -> tuple[Skipped, ...]:
    """`skipped` with one entry for each kind, with the counts added, in order of first occurrence."""
    kinds: dict[tuple[str, str], Skipped] = {}
    for each in skipped:
        known = kinds.get((each.what, each.remedy))
        count = each.count + (known.count if known else 0)
        kinds[each.what, each.remedy] = Skipped(each.what, count, known.first if known else each.first, each.remedy)
    return tuple(kinds.values())


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far links may lead.

    folder: links to what is below it are followed; None follows all links.
    """

    folder: Path | None

    def check(self, path: str | Path) -> None:
        """Raise DataError if `path`, a link, leads out of the folder."""
        if self.folder is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.folder)):
            raise DataError(
                f"{path}: a link that leads out of {self.folder}. Pass --follow-links if its images are yours to use, "
                "or put a copy in its place."
            )


def list_images(folder: Path, *, follow_links: bool = False, bounds: Bounds | None = None) -> Listing:
    """List every image file below `folder`, and the image files in formats that can't be read.

    Hidden folders and system folders (`__MACOSX`, `@eaDir`, ...) are not entered; links to folders are followed.
    follow_links: also links that lead out of `folder`.
    bounds: how far links may lead, instead.
    Raises DataError if `folder` is not a folder, or for a link that leads too far.
    """
    bounds = bounds or Bounds(None if follow_links else folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder.")
    images: list[Path] = []
    skipped: list[Skipped] = []
    readable = readable_suffixes()
    for entry in _walk(folder, (), bounds):
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - building a Path for each doubles the time
        if entry.is_dir():  # a system folder
            skipped.append(_system_folder(entry.path))
        elif suffix in readable:
            images.append(Path(entry.path))
        elif remedy := remedy_for(suffix):
            skipped.append(Skipped(f"{suffix} file(s)", 1, entry.path, remedy))
    return Listing(folder, tuple(images), merged(skipped))


def class_folders(folder: Path, bounds: Bounds) -> tuple[dict[str, Path], tuple[Skipped, ...]]:
    """The class folders in `folder` by name, and the entries beside them that are skipped.

    Raises DataError if `folder` can't be listed, or a class folder is a link that leads too far.
    """
    classes: dict[str, Path] = {}
    skipped: list[Skipped] = []
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.is_dir():
            if entry.name in _SYSTEM_FOLDERS:
                skipped.append(_system_folder(entry.path))
            elif not entry.name.startswith("."):
                if entry.is_symlink():
                    bounds.check(entry.path)
                classes[entry.name] = path
        elif path.suffix.lower() in readable_suffixes() or remedy_for(path.suffix.lower()):
            skipped.append(
                Skipped("image file(s) beside the class folders", 1, entry.path, "move them into the folder of a class")
            )
    return classes, merged(skipped)


def _system_folder(path: str) -> Skipped:
    return Skipped("system folder(s)", 1, path, "delete them")


def _walk(folder: Path, above: tuple[tuple[int, int], ...], bounds: Bounds) -> Iterator[os.DirEntry[str]]:
    """Yield the files below `folder` in sorted order, and the system folders, which are not entered.

    above: device and inode of the parent folders, so that a link to one of them is not followed.
    """
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in _entries(folder):
        if not entry.is_dir():
            if entry.is_file() and not entry.name.startswith("._"):
                if entry.is_symlink():
                    bounds.check(entry.path)
                yield entry
        elif entry.name in _SYSTEM_FOLDERS:
            yield entry
        elif not entry.name.startswith("."):
            if entry.is_symlink():
                bounds.check(entry.path)
            yield from _walk(Path(entry.path), (*above, here), bounds)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as reason:
        raise DataError(f"{folder}: can't be listed: {reason.strerror}.") from None
