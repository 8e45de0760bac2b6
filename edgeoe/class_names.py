"""Class names, in the order of a teacher's outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgeoe.codec import json_from
from edgeoe.errors import ConfigError
from edgeoe.files import read_text

__all__ = ["class_names", "names_a_file", "natural_order"]

_FORMS = "a file with one class a line, a JSON file, or the names with commas between"


def class_names(value: Sequence[str]) -> tuple[str, ...]:
    """Parse the value of --classes into names.

    value: the names themselves, or a single text: the path of a file, or names separated by commas.
    A text file has one name a line; blank lines and lines that start with # are skipped. A JSON file has a list of
    names, or an object that maps output to name ({"0": "cat"}) or name to output ({"cat": 0}).
    Raises ConfigError for an unreadable file, fewer than two names, or a duplicate name.
    """
    names, where = tuple(value), "--classes"
    if len(names) == 1 and names_a_file(names[0]):
        where = f"--classes {names[0]}"
        names = _from_file(Path(names[0]), where)
    elif len(names) == 1:
        names = tuple(name.strip() for name in names[0].split(","))
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{where}: a class has no name. Give {_FORMS}.")
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{where}: {', '.join(duplicates)} is listed more than once. Each class has one output.")
    if len(names) == 1:
        raise ConfigError(f"{where}: must name at least 2 classes. Got 1. Give {_FORMS}.")
    return names


def names_a_file(text: str, *, folder: Path | None = None) -> bool:
    """Whether `text`, a single value of --classes, is a path relative to `folder` rather than a list of names."""
    return "," not in text or (folder or Path()).joinpath(text).is_file()


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """`names` in natural sort order: numbers by value (2 before 10), letters regardless of case."""

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"([0-9]+)", name)
        return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part.casefold()) for part in parts if part]

    return tuple(sorted(names, key=lambda name: (key(name), name)))


def _from_file(path: Path, where: str) -> tuple[str, ...]:
    try:
        text = read_text(path)
        if path.suffix.lower() != ".json":
            lines = (line.strip() for line in text.splitlines())
            names = tuple(line for line in lines if line and not line.startswith("#"))
        else:
            names = _from_json(json_from(text))
    except OSError as reason:
        raise ConfigError(f"{where}: can't be read: {reason.strerror}. Give {_FORMS}.") from None
    except ValueError as reason:
        raise ConfigError(f"{where}: has no class names: {reason}.") from None
    if not names:
        raise ConfigError(f"{where}: has no class names.")
    return names


def _from_json(data: Any) -> tuple[str, ...]:
    """The names in parsed JSON. Raises ValueError that says what is wrong."""
    if isinstance(data, list) and all(isinstance(name, str) for name in data):
        return tuple(data)
    if not isinstance(data, dict):
        raise ValueError('must be a list of names, {"0": "cat", ...} or {"cat": 0, ...}')
    if all(isinstance(index, int) for index in data.values()):
        by_index = {index: name for name, index in data.items()}
    elif all(isinstance(name, str) and index.isdigit() for index, name in data.items()):
        by_index = {int(index): name for index, name in data.items()}
    else:
        raise ValueError('must be a list of names, {"0": "cat", ...} or {"cat": 0, ...}')
    if sorted(by_index) != list(range(len(data))):
        raise ValueError(f"outputs must be 0 to {len(data) - 1}, each once")
    return tuple(by_index[index] for index in range(len(data)))
