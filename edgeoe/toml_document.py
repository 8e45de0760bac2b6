"""A parsed TOML file whose errors name the file, the line and the nearest known key."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from edgeoe.errors import EdgeoeError
from edgeoe.registry import nearest
from edgeoe.shares import is_share, read_share

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["TomlDocument"]

Record = TypeVar("Record")


class TomlDocument:
    """One parsed TOML file.

    path: the user's file.
    error: class of all exceptions raised here.
    Raises `error` if the file can't be read or is not valid TOML.
    """

    def __init__(self, path: Path, *, error: type[EdgeoeError]) -> None:
        self.path = path
        self.error = error
        try:
            self.text = path.read_text(encoding="utf-8")
            self.tables: dict[str, Any] = tomllib.loads(self.text)
        except FileNotFoundError:
            raise error(f"{path}: no such file.") from None
        except (OSError, UnicodeDecodeError) as reason:
            raise error(f"{path}: can't be read as text: {reason}") from None
        except (tomllib.TOMLDecodeError, ValueError) as reason:  # a number of thousands of digits is a ValueError
            raise error(f"{path}: not valid TOML: {reason}") from None
        except RecursionError:
            raise error(f"{path}: not valid TOML: too deeply nested") from None

    def line(self, table: str, key: str) -> int:
        """Line number of `key` in `[table]` ("" is the top level), or of the table if it has no such key."""
        current, nearest_line = "", 1
        name = rf"""["']?{re.escape(key)}["']?\s*[=.]"""
        for number, text in enumerate(self.text.splitlines(), start=1):
            header = re.match(r"\s*\[{1,2}\s*([^\[\]]+?)\s*\]", text)
            if header:
                current = header[1].strip("\"'")
            if header and current in (table, f"{table}.{key}".lstrip(".")):
                nearest_line = number
            elif current == table and re.match(rf"\s*{name}", text):
                return number
            elif not current and re.match(rf"\s*{re.escape(table)}\s*(=|\.\s*{name})", text):
                nearest_line = number  # an inline table, or a dotted key
        return nearest_line

    def complain(self, table: str, key: str, message: str) -> EdgeoeError:
        """An exception about `key` of `[table]`, for the caller to raise."""
        return self.error(f"{self.path}:{self.line(table, key)}: {message}")

    def refuse_unknown(self, table: str, keys: Collection[str], known: Collection[str]) -> None:
        """Raise `error` for the first of `keys` that is not in `known`."""
        where = f"[{table}]" if table else "the top level"
        for key in keys:
            if key not in known:
                raise self.complain(table, key, f"unknown key {key!r} in {where}. {nearest(key, known)}")

    def table(self, name: str) -> Mapping[str, Any]:
        """The table `[name]`, empty if the file has none."""
        value = self.tables.get(name, {})
        if not isinstance(value, dict):
            raise self.complain("", name, f"{name} must be a table: write it as [{name}].")
        return value

    def _fraction(self, table: str, key: str, value: Any, kind: type) -> Any:
        """`value` as a number if it is a share in percent, such as "50%"."""
        if not isinstance(value, str) or not value.endswith("%"):
            return value
        if not is_share(get_type_hints(kind, include_extras=True)[key]):
            return value
        try:
            return read_share(value)
        except ValueError as reason:
            raise self.complain(table, key, f"{key}: {reason}.") from None

    def record(self, table: str, kind: type[Record], values: Mapping[str, Any] | None = None) -> Record:
        """Read `[table]` as the dataclass `kind`, checking keys and types.

        values: read these instead of the table, for a record that is spread over the file.
        """
        from pydantic import TypeAdapter, ValidationError

        entries = self.table(table) if values is None else values
        fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        self.refuse_unknown(table, entries, fields)
        entries = {key: self._fraction(table, key, value, kind) for key, value in entries.items()}
        try:
            return TypeAdapter(kind).validate_json(json.dumps(entries, default=str), strict=True)
        except ValidationError as invalid:
            first = invalid.errors(include_url=False)[0]
            key = str(first["loc"][0]) if first["loc"] else ""
            message = first["msg"][0].lower() + first["msg"][1:]
            got = f". Got {entries[key]!r}" if key in entries else ""
            raise self.complain(table, key, f"{key}: {message}{got}.") from None
