"""What an ONNX file asks of a runtime, read without `onnx`: operators, files beside it, and notes.

The file is mapped, not loaded, and weights are skipped. Imports the standard library only, as it runs on devices. Field
numbers are those of onnx.proto; a test compares them with `onnx`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["OnnxContent", "read_onnx"]

FIELDS: dict[str, dict[int, str]] = {  # the fields that are followed, by message: number -> kind of message, or a leaf
    "ModelProto": {
        7: "GraphProto",
        14: "StringStringEntryProto",
        20: "TrainingInfoProto",
        25: "FunctionProto",
    },
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {4: "op_type", 5: "AttributeProto", 7: "domain"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "FunctionProto": {1: "name", 7: "NodeProto", 10: "domain", 11: "AttributeProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto", 14: "data_location"},
    "StringStringEntryProto": {1: "key", 2: "value"},
}
_DEEPEST = 100  # of messages within messages, as protobuf itself reads
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1  # TensorProto.DataLocation


@dataclass(frozen=True, slots=True)
class OnnxContent:
    """What a graph consists of, without its weights.

    operators: (domain, operator) of every node: of functions, branches and loop bodies, too.
    functions: (domain, name) of operators that the file itself defines.
    external: paths, as the file names them, of weights that lie in other files.
    metadata: notes by key.
    """

    operators: frozenset[tuple[str, str]]
    functions: frozenset[tuple[str, str]]
    external: tuple[str, ...]
    metadata: dict[str, str]


def read_onnx(path: Path) -> OnnxContent:
    """Read the ONNX file `path`. Raises ValueError, with the reason, if it is none, OSError if it can't be read."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError("it is empty")
        reader, data = _Reader(), memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        reader.visit(data, "ModelProto", 0, {})  # the map ends with the last view of it
    if not reader.operators:
        raise ValueError("it has no operators")
    return OnnxContent(
        frozenset(reader.operators), frozenset(reader.functions), tuple(dict.fromkeys(reader.external)), reader.metadata
    )


class _Reader:
    """Collects what the messages of a file say. A field that occurs twice is taken both times."""

    def __init__(self) -> None:
        self.operators: set[tuple[str, str]] = set()
        self.functions: set[tuple[str, str]] = set()
        self.external: list[str] = []
        self.metadata: dict[str, str] = {}

    def visit(self, data: memoryview, kind: str, depth: int, above: dict[str, list[str]]) -> None:
        """Read the message `data`.

        kind: of the message.
        above: texts of the message that contains it, by field.
        """
        if depth > _DEEPEST:
            raise ValueError(f"its messages are nested more than {_DEEPEST} deep")
        fields, own = FIELDS[kind], _Texts()
        for number, value in _fields(data):
            meaning = fields.get(number)
            if meaning is None:
                continue
            if meaning == "data_location":
                own[meaning] = [*own[meaning], str(value)]
            elif isinstance(value, int):
                raise ValueError(f"a field of {kind} has another type")
            elif meaning in FIELDS:
                self.visit(value, meaning, depth + 1, own)
            else:
                own[meaning] = [*own[meaning], bytes(value).decode()]
        self._take(kind, own, above)

    def _take(self, kind: str, own: dict[str, list[str]], above: dict[str, list[str]]) -> None:
        if kind == "NodeProto":
            self.operators |= {(domain, name) for domain in own["domain"] or [""] for name in own["op_type"] or [""]}
        elif kind == "FunctionProto":
            self.functions |= {(domain, name) for domain in own["domain"] or [""] for name in own["name"] or [""]}
        elif kind == "StringStringEntryProto":
            above["entries"] = [*above.get("entries", []), *(f"{key}\0{value}" for key, value in _pairs(own))]
        elif kind == "TensorProto":
            entries = [entry.partition("\0") for entry in own["entries"]]
            if entries or str(_EXTERNAL) in own["data_location"]:
                self.external += [value for key, _, value in entries if key == "location"] or [""]
        elif kind == "ModelProto":
            self.metadata = {key: value for key, _, value in (entry.partition("\0") for entry in own["entries"])}


class _Texts(dict[str, list[str]]):
    """Texts by field; a field without any has none."""

    def __missing__(self, key: str) -> list[str]:
        return []


def _pairs(entry: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    for key in entry["key"] or [""]:
        for value in entry["value"] or [""]:
            yield key, value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of the fields of a message. Raises ValueError where it is none."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**29:  # protobuf itself would drop the higher bits, and see another field
            raise ValueError("it is not in protobuf's format")
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value & 0xFFFFFFFF
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError("it is not in protobuf's format")
        if size > len(data) - at:
            raise ValueError("it is not in protobuf's format")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError("it is not in protobuf's format")
