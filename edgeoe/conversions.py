"""What may be given loosely, as what is meant: text for a path, a dict for settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgeoe.errors import ConfigError
from edgeoe.registry import nearest

__all__ = ["path_from_text", "record_from", "tuple_from_list", "with_home"]

Record = TypeVar("Record")


def record_from(kind: type[Record], given: Record | Mapping[str, Any]) -> Record:
    """Settings of the class `kind`, given as such or as a dict. Raises ConfigError for a key that it does not have."""
    if not isinstance(given, Mapping):
        return given
    names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in given:
        if name not in names:
            raise ConfigError(f"{name}: no field of {kind.__name__}. {nearest(name, names)}")
    return kind(**given)


def path_from_text(given: Any) -> Any:
    """A path that may be given as text; anything else stays as it is."""
    return Path(with_home(given)) if isinstance(given, str) else given


def tuple_from_list(given: Any) -> Any:
    """A tuple that may be given as a list; anything else stays as it is."""
    return tuple(given) if isinstance(given, list) else given


def with_home(text: str) -> str:
    """`text` with ~ or ~user at its beginning replaced by that folder, where there is one."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        return text
