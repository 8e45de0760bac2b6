"""A text file that names some of the images below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeoe.data.formats import readable_suffixes, remedy_for
from edgeoe.errors import DataError
from edgeoe.files import read_text
from edgeoe.registry import nearest

__all__ = ["listed_images"]


def listed_images(list_file: Path, folder: Path, classes: Sequence[str]) -> dict[Path, str]:
    """The images that `list_file` names, sorted, and the class of each.

    A line is a path: relative to `folder`, absolute, or relative to the working folder or to the list's own; always of
    an image in one of the folders `classes` of `folder`. Blank lines and lines that start with # are skipped; a
    backslash separates folders where no file's name holds one.
    Raises DataError, with the line's number, for anything else, or if no line names an image.
    """
    try:
        lines = read_text(list_file).splitlines()
    except (OSError, ValueError) as reason:
        raise DataError(f"{list_file}: can't be read as a list of paths: {reason}") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            try:
                path = _resolved(entry, folder, list_file, classes)
                _require_image(path, entry, folder, classes)
            except DataError as reason:
                raise DataError(f"{list_file}:{number}: {reason}") from None
            found[folder / path] = path.parts[0]
    if not found:
        raise DataError(
            f"{list_file}: lists no images: it is empty, or all its lines are blank or start with #. Write one path a "
            "line, or leave --list out."
        )
    return dict(sorted(found.items()))


def _resolved(entry: str, folder: Path, list_file: Path, classes: Sequence[str]) -> Path:
    """The path in `folder` that `entry` means: the first reading that is a file, else one of a class's folder."""
    readings = []
    for path in _readings(entry, folder, list_file):
        if (folder / path).is_file():
            return path
        readings.append(path)
    if not readings:
        raise DataError(f"{entry!r} lies outside {folder}. Paths are relative to --samples, or lead into it.")
    return next((path for path in readings if path.parts and path.parts[0] in classes), readings[0])


def _readings(entry: str, folder: Path, list_file: Path) -> Iterator[Path]:
    for text in dict.fromkeys((entry, entry.replace("\\", "/"))):
        if ".." in Path(text).parts:
            raise DataError(f"{entry!r} leads out of its class. Write the path without '..'.")
        for base in (folder, Path(), list_file.parent):
            yield from _within(folder, base / text)


def _within(folder: Path, path: Path) -> Iterator[Path]:
    """`path` relative to `folder`, if it leads there by its own words or through links to the folder."""
    plain = Path(os.path.abspath(path))  # noqa: PTH100 - it does not follow links
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
        raise DataError(f"{entry!r} is no file in {folder}. Paths are relative to --samples, or lead into it.")
    if suffix not in readable_suffixes():
        remedy = remedy_for(suffix)
        allowed = f"Allowed: {', '.join(sorted(readable_suffixes()))}."
        raise DataError(f"{entry!r} is no image that can be read. " + (f"{suffix}: {remedy}." if remedy else allowed))
