"""A TOML file whose every complaint names the file, the line and the nearest known key."""

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

    path: the user's file. error: the class of every exception raised here.
    Raises `error` if the file can't be read or is no TOML.
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
        except tomllib.TOMLDecodeError as reason:
            raise error(f"{path}: not valid TOML: {reason}") from None

    def line(self, table: str, key: str) -> int:
        """Line of `key` in `[table]` ("" is the top of the file), or of the table where it has no such key."""
        current, found = "", 1
        name = rf"""["']?{re.escape(key)}["']?\s*[=.]"""
        for number, text in enumerate(self.text.splitlines(), start=1):
            header = re.match(r"\s*\[{1,2}\s*([^\[\]]+?)\s*\]", text)
            if header:
                current = header[1].strip("\"'")
            if header and current in (table, f"{table}.{key}".lstrip(".")):
                found = number
            elif current == table and re.match(rf"\s*{name}", text):
                return number
            elif not current and re.match(rf"\s*{re.escape(table)}\s*(=|\.\s*{name})", text):
                found = number  # an inline table, or a dotted key
        return found

    def complain(self, table: str, key: str, message: str) -> EdgeoeError:
        """The exception to raise about `key` of `[table]`."""
        return self.error(f"{self.path}:{self.line(table, key)}: {message}")

    def refuse_unknown(self, table: str, given: Collection[str], known: Collection[str]) -> None:
        """Raise for the first key of `given` that is not in `known`."""
        where = f"[{table}]" if table else "the top level"
        for key in given:
            if key not in known:
                raise self.complain(table, key, f"unknown key {key!r} in {where}. {nearest(key, known)}")

    def table(self, name: str) -> Mapping[str, Any]:
        """The table `[name]`, empty where the file has none."""
        value = self.tables.get(name, {})
        if not isinstance(value, dict):
            raise self.complain("", name, f"{name} must be a table: write it as [{name}].")
        return value

    def _fraction(self, table: str, key: str, value: Any, kind: type) -> Any:
        """`value` as a number where it is a share in percent, as "50%"."""
        if not isinstance(value, str) or not value.endswith("%"):
            return value
        if not is_share(get_type_hints(kind, include_extras=True)[key]):
            return value
        try:
            return read_share(value)
        except ValueError as reason:
            raise self.complain(table, key, f"{key}: {reason}.") from None

    def record(self, table: str, kind: type[Record], values: Mapping[str, Any] | None = None) -> Record:
        """`[table]` as the dataclass `kind`, its keys and types checked.

        values: what to read instead of the table itself, for a record that is spread over the file.
        """
        from pydantic import TypeAdapter, ValidationError

        given = self.table(table) if values is None else values
        fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        self.refuse_unknown(table, given, fields)
        given = {key: self._fraction(table, key, value, kind) for key, value in given.items()}
        try:
            return TypeAdapter(kind).validate_json(json.dumps(given, default=str), strict=True)
        except ValidationError as invalid:
            first = invalid.errors(include_url=False)[0]
            key = str(first["loc"][0]) if first["loc"] else ""
            message = first["msg"][0].lower() + first["msg"][1:]
            got = f". Got {given[key]!r}" if key in given else ""
            raise self.complain(table, key, f"{key}: {message}{got}.") from None
