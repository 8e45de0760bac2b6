"""Text files that list some of the images below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeoe.data.formats import readable_suffixes, remedy_for
from edgeoe.data.listing import Bounds
from edgeoe.errors import DataError
from edgeoe.files import read_text
from edgeoe.registry import nearest

__all__ = ["listed_images"]


def listed_images(list_file: Path, folder: Path, classes: Sequence[str], bounds: Bounds) -> dict[Path, str]:
    """The images that `list_file` lists, sorted, each with its class.

    Each line is the path of an image in one of the class folders of `folder`: absolute, or relative to `folder`, to the
    working folder or to the folder of the list. Blank lines and lines that start with # are skipped; a backslash
    separates folders unless it is part of a file name.
    bounds: how far links may lead.
    Raises DataError, with the line number, for any other line, or if no line names an image.
    """
    try:
        lines = read_text(list_file).splitlines()
    except (OSError, ValueError) as reason:
        raise DataError(f"{list_file}: can't be read as a list of paths: {reason}") from None
    images = {}
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            try:
                if "\0" in entry:
                    raise DataError(f"{entry!r} is not a path: it holds a NUL.")
                path = _resolved(entry, folder, list_file, classes)
                _require_image(path, entry, folder, classes)
                bounds.check(folder / path)
            except DataError as reason:
                raise DataError(f"{list_file}:{number}: {reason}") from None
            images[folder / path] = path.parts[0]
    if not images:
        raise DataError(
            f"{list_file}: lists no images: it is empty, or all its lines are blank or start with #. Write one path a "
            "line, or omit --list."
        )
    return dict(sorted(images.items()))


def _resolved(entry: str, folder: Path, list_file: Path, classes: Sequence[str]) -> Path:
    """The path in `folder` that `entry` refers to: the first candidate that is a file, else one in a class folder."""
    candidates = []
    for path in _candidates(entry, folder, list_file):
        if (folder / path).is_file():
            return path
        candidates.append(path)
    if not candidates:
        raise DataError(f"{entry!r} lies outside {folder}. Paths are relative to --samples, or lead into it.")
    return next((path for path in candidates if path.parts and path.parts[0] in classes), candidates[0])


def _candidates(entry: str, folder: Path, list_file: Path) -> Iterator[Path]:
    for text in dict.fromkeys((entry, entry.replace("\\", "/"))):
        if ".." in Path(text).parts:
            raise DataError(f"{entry!r} leads out of its class folder. Write the path without '..'.")
        for base in (folder, Path(), list_file.parent):
            yield from _within(folder, base / text)


def _within(folder: Path, path: Path) -> Iterator[Path]:
    """Yield `path` relative to `folder` if it lies there, as written or with links resolved."""
    plain = Path(os.path.abspath(path))  # noqa: PTH100 - does not follow links
    if plain.is_relative_to(root := os.path.abspath(folder)):  # noqa: PTH100
        yield plain.relative_to(root)
    real = Path(os.path.realpath(path.parent), path.name)
    if real.is_relative_to(root := os.path.realpath(folder)):
        yield real.relative_to(root)


def _require_image(path: Path, entry: str, folder: Path, classes: Sequence[str]) -> None:
    name = path.parts[0] if path.parts else entry
    if name not in classes:
        raise DataError(f"no class {name!r} in {folder}. {nearest(name, classes)}")
    suffix = path.suffix.lower()
    if not (folder / path).is_file():
        raise DataError(f"{entry!r} is not a file in {folder}. Paths are relative to --samples, or lead into it.")
    if suffix not in readable_suffixes():
        remedy = remedy_for(suffix)
        allowed = f"Allowed: {', '.join(sorted(readable_suffixes()))}."
        raise DataError(f"{entry!r} is not a readable image. " + (f"{suffix}: {remedy}." if remedy else allowed))
