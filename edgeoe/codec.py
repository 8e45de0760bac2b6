"""Records <-> JSON: one encoder, and one decoder that checks every key, type and bound.

A record is a frozen dataclass. Its annotations say which values are valid (`Annotated` bounds, `Literal`, tuples,
dicts, other records); constraints between fields are checked in its `__post_init__`, which raises ValueError.
Imports the standard library only, because it also runs on devices.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = [
    "UNBOUNDED",
    "from_json",
    "json_from",
    "read_json_object",
    "read_record",
    "record_from",
    "record_text",
    "to_json",
]

Record = TypeVar("Record")
UNBOUNDED = "unbounded"  # Annotated[float, UNBOUNDED] may be infinite, which is null in JSON
_MOST_BYTES = 2**26  # of a file
_MOST_LEVELS = 64  # of objects and lists within each other
_MOST_INTEGER = 2**63  # so that whole numbers fit into arrays
_MOST_NUMBER, _LEAST_NUMBER = 1e100, 1e-100  # so that squares and quotients are finite


def to_json(record: Any) -> Any:
    """`record` as plain JSON data; dataclasses become objects with their fields' names."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, dict):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return None  # JSON has no infinity
    return str(record) if isinstance(record, Path) else record


def record_text(record: Any, *, format: int) -> str:  # noqa: A002 - the key in the file
    """The text of a file that holds `record`, starting with its format number."""
    return json.dumps({"format": format, **to_json(record)}, indent=1) + "\n"


def read_record(kind: type[Record], path: Path, *, format: int) -> Record:  # noqa: A002 - as above
    """Read the record of class `kind` that `record_text` wrote to `path`.

    Raises ValueError, naming the invalid field, if the file holds no such record or one of another format, and OSError
    if it can't be read.
    """
    return record_from(kind, read_json_object(path), format=format)


def record_from(kind: type[Record], data: dict[str, Any], *, format: int) -> Record:  # noqa: A002 - as above
    """The record of class `kind` in `data`, the object of a file. Raises ValueError as `read_record` does."""
    if data.get("format") != format:
        raise ValueError(f"format must be {format}")
    return from_json(kind, {key: value for key, value in data.items() if key != "format"})


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file. Raises ValueError as `json_from` does, OSError if it can't be read."""
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"{size / 2**20:.0f} MiB; at most {_MOST_BYTES // 2**20} MiB are read")
    data = json_from(path.read_bytes())
    if not isinstance(data, dict):
        raise ValueError(f"expected an object. Got {_excerpt(data)}")
    return data


def json_from(text: str | bytes) -> Any:
    """Parse JSON from anywhere, as the standard has it.

    Raises ValueError for anything else: NaN and infinities, numbers of more than 64 bits, a key that an object has
    twice, deep nesting, and text that is not Unicode.
    """
    try:
        data = json.loads(
            text,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError("too deeply nested") from None
    _check_content(data)
    return data


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {_short(text)} is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -_MOST_INTEGER <= int(text) < _MOST_INTEGER:
        raise ValueError(f"the number {_short(text)} has more than 64 bits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {_excerpt(next(key for key in keys if keys.count(key) > 1))} stands there twice")
    return data


def _check_content(data: Any) -> None:
    """Raise ValueError if `data` is too deeply nested, or has text that is not Unicode: half of a surrogate pair."""
    level, levels = [data], 0
    while level:
        levels += 1
        if levels > _MOST_LEVELS:
            raise ValueError("too deeply nested")
        below: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                below += part.keys()
                below += part.values()
            elif isinstance(part, list):
                below += part
            elif isinstance(part, str) and not part.isascii():
                part.encode()  # UnicodeEncodeError is a ValueError
        level = below


def from_json(kind: type[Record], data: Any) -> Record:
    """Decode `data`, as `to_json` encodes it, to a record of class `kind`. Raises ValueError, naming the field."""
    record: Record = _decode(kind, data, kind.__name__)
    return record


def _decode(hint: Any, data: Any, where: str) -> Any:
    """`data` as a value of the type `hint`."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return data
    if dataclasses.is_dataclass(hint):
        return _record(hint, data, where)
    if origin is Annotated:
        if UNBOUNDED in parts[1:] and data is None:
            return math.inf
        value = _decode(parts[0], data, where)
        for bound in parts[1:]:
            _check_bound(bound, value, where)
        return value
    if origin is Literal:
        return data if data in parts and type(data) is str else _refuse(data, " or ".join(map(repr, parts)), where)
    if origin in (Union, types.UnionType):
        (other,) = (part for part in parts if part is not type(None))
        return None if data is None else _decode(other, data, where)
    if origin is tuple:
        return _tuple(parts, data, where)
    if origin is dict:
        return _dict(parts, data, where)
    return _plain(hint, data, where)


def _record(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        _refuse(data, "an object", where)
    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(data.keys() - fields.keys()):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}")
    needed = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(needed - data.keys()):
        raise ValueError(f"{where}: missing key {missing[0]!r}")
    values = {name: _decode(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except ValueError as reason:
        raise ValueError(f"{where}.{reason}") from None


def _tuple(parts: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        _refuse(data, "a list", where)
    kinds = [parts[0]] * len(data) if parts[-1] is ... else list(parts)
    if len(kinds) != len(data):
        _refuse(data, f"{len(kinds)} values", where)
    return tuple(_decode(kind, one, f"{where}[{at}]") for at, (kind, one) in enumerate(zip(kinds, data, strict=True)))


def _dict(parts: tuple[Any, ...], data: Any, where: str) -> dict[Any, Any]:
    if not isinstance(data, dict):
        _refuse(data, "an object", where)
    if parts[0] is int:
        for name in data:
            if not re.fullmatch("0|-?[1-9][0-9]{0,18}", str(name)):
                _refuse(name, "a whole number as key", where)
    key: Callable[[str], Any] = int if parts[0] is int else str
    return {key(name): _decode(parts[1], value, f"{where}.{name}") for name, value in data.items()}


def _plain(kind: Any, data: Any, where: str) -> Any:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    if kind is float and type(data) is int and abs(data) < _MOST_NUMBER:
        data = float(data)
    if type(data) is not (str if kind is Path else kind):
        _refuse(data, names[kind], where)
    if kind is int and not -_MOST_INTEGER <= data < _MOST_INTEGER:
        _refuse(data, "a whole number of 64 bits", where)
    if kind is float and not math.isfinite(data):
        _refuse(data, "a finite number", where)
    if kind is float and data and not _LEAST_NUMBER <= abs(data) <= _MOST_NUMBER:
        _refuse(data, f"0, or a number from {_LEAST_NUMBER:g} to {_MOST_NUMBER:g}", where)
    return Path(data) if kind is Path else data


def _check_bound(bound: Any, value: Any, where: str) -> None:
    tests: dict[str, Callable[[Any], bool]] = {
        "ge": lambda least: value >= least,
        "gt": lambda limit: value > limit,
        "le": lambda most: value <= most,
        "lt": lambda limit: value < limit,
    }
    least = getattr(bound, "min_length", None)
    if least and len(value) < least:
        _refuse(value, "at least one value" if least == 1 else f"at least {least} values", where)
    for name, holds in tests.items():
        limit = getattr(bound, name, None)
        if limit is not None and not holds(limit):
            words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
            _refuse(value, f"{words[name]} {limit}", where)


def _refuse(data: Any, expected: str, where: str) -> Any:
    raise ValueError(f"{where}: expected {expected}. Got {_excerpt(data)}")


def _excerpt(data: Any) -> str:
    """`data` as JSON, shortened for a message."""
    if type(data) is int and abs(data) >= _MOST_INTEGER:  # Python converts none of thousands of digits
        return "a number of more than 64 bits"
    return _short(json.dumps(data, default=str))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
