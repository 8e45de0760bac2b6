"""Profiles of devices: targets/<name>.toml -> Target."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edgeoe.errors import TargetError
from edgeoe.records import Budget, MeasureSettings, RuntimeSettings, Target
from edgeoe.registry import nearest
from edgeoe.toml_document import TomlDocument

__all__ = ["find_target", "find_targets", "load_target"]

_TABLES = {"runtime": RuntimeSettings, "measure": MeasureSettings, "budget": Budget}


def _folders() -> tuple[Path, ...]:
    """Where profiles are looked for: the user's own ./targets first, then those that edgeoe ships."""
    package = Path(__file__).parent
    shipped = package / "profiles"  # in a wheel; a source checkout has them beside the package
    return Path("targets"), shipped if shipped.is_dir() else package.parent / "targets"


def find_targets() -> dict[str, Path]:
    """Every profile's name and file; a user's profile hides the shipped one of that name."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_target(name: str) -> Path:
    """The file of profile `name`, which may also be a path to a .toml file.

    Raises TargetError where there is none.
    """
    if name.endswith(".toml"):
        return Path(name)
    known = find_targets()
    if name not in known:
        raise TargetError(f"unknown target {name!r}. {nearest(name, known)} Your own go into ./targets/<name>.toml.")
    return known[name]


def load_target(name: str) -> Target:
    """The profile `name` (or the .toml file at that path), every key and type checked.

    Raises TargetError with file and line.
    """
    document = TomlDocument(find_target(name), error=TargetError)
    fields = [field.name for field in dataclasses.fields(Target) if field.name != "name"]
    document.refuse_unknown("", document.tables, fields)
    parts: dict[str, Any] = {table: document.record(table, kind) for table, kind in _TABLES.items()}
    top = {key: value for key, value in document.tables.items() if key not in _TABLES}
    target = document.record("", Target, {**top, "name": document.path.stem})
    return dataclasses.replace(target, **parts)
