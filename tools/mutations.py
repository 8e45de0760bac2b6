"""Mutations of files, as damage and malice make them: of bytes, of JSON, and of names in a folder."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["mutate", "replace_by_link"]

ACTING = "\x1b]0;x\x07\x1b[2J\u202e\r::error::x <script>x</script> [x](http://x) @x ../../x"
RAW_VALUES = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "9" * 5000, "[" * 200 + "]" * 200, '"\\ud800"')
VALUES: tuple[Any, ...] = (None, True, 0, -1, -0.5, 1e300, 1e-320, 2**62, 10**9, "", "x" * 300, "x" * 100_000, ACTING)
VALUES += ([], {}, [0], {"": 0}, [[[]]], "..", "/etc/passwd", "1", "1e3")
PLACE = "\0the mutated value\0"


def mutate(path: Path, draw: random.Random) -> str:
    """Change the file `path` in one way that `draw` chooses. Returns a description of it."""
    data = path.read_bytes()
    ways: list[Callable[[bytes, random.Random], tuple[bytes, str]]] = [_flip, _cut, _insert, _noise]
    if path.suffix == ".json":
        ways = [_json_value] * 6 + [_json_keys] * 3 + ways
    elif path.suffix in (".toml", ".txt"):
        ways = [_line] * 4 + ways
    changed, what = draw.choice(ways)(data, draw)
    path.write_bytes(changed)
    return what


def _flip(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    changed = bytearray(data or b"\0")
    for at in (places := [draw.randrange(len(changed)) for _ in range(draw.choice((1, 1, 4, 64)))]):
        changed[at] ^= 1 << draw.randrange(8)
    return bytes(changed), f"{len(places)} bits flipped, the first in byte {places[0]}"


def _cut(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    end = draw.choice((0, draw.randrange(len(data) + 1), max(0, len(data) - 1)))
    return data[:end], f"cut to {end} bytes"


def _insert(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    at, extra = draw.randrange(len(data) + 1), draw.choice((b"\0", ACTING.encode(), b"\xff\xfe", b"9" * 5000, b"\n"))
    return data[:at] + extra + data[at:], f"{extra[:8]!r}... put in at byte {at}"


def _noise(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    return draw.randbytes(draw.choice((1, 100, len(data)))), "replaced by noise"


def _line(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A line of a text file removed, doubled, or its value replaced."""
    lines = data.decode(errors="replace").splitlines() or [""]
    at = draw.randrange(len(lines))
    way = draw.choice(("removed", "doubled", "value", "value"))
    if way == "removed":
        del lines[at]
    elif way == "doubled":
        lines.insert(at, lines[at])
    else:
        value = draw.choice((*RAW_VALUES[:7], json.dumps(draw.choice(VALUES)), "nan", "inf", "", "1979-05-27", ACTING))
        key, equals, _ = lines[at].partition("=")
        lines[at] = f"{key}{equals} {value}" if equals else value
        way = f"value {value[:40]!r}"
    return ("\n".join(lines) + "\n").encode(errors="surrogatepass"), f"line {at + 1}: {way}"


def _json_value(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """One value of a JSON file replaced."""
    parsed = json.loads(data)
    way = draw.choice([*_ways(parsed)])
    where = ".".join(map(str, way))
    if draw.random() < 0.3:
        raw = draw.choice(RAW_VALUES)
        _put(parsed, way, PLACE)
        text = json.dumps(parsed).replace(json.dumps(PLACE), raw)
        return text.encode(), f"{where} = {raw[:40]}"
    value = draw.choice(VALUES)
    _put(parsed, way, value)
    return json.dumps(parsed).encode(), f"{where} = {str(value)[:40]!r}"


def _json_keys(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A key of a JSON file removed, added or doubled, or an item of a list."""
    parsed = json.loads(data)
    way = draw.choice([*_ways(parsed)])
    parent = _get(parsed, way[:-1])
    where = ".".join(map(str, way))
    action = draw.choice(("removed", "added", "doubled"))
    if action == "removed":
        del parent[way[-1]]
    elif action == "added" and isinstance(parent, dict):
        parent[draw.choice(("x", "-1", "__class__", ACTING, "format"))] = draw.choice(VALUES)
    elif action == "added" or isinstance(parent, list):
        parent.insert(way[-1], parent[way[-1]])
    else:
        text, key = json.dumps(parsed), json.dumps(way[-1])
        return text.replace(f"{key}:", f"{key}: null, {key}:", 1).encode(), f"{where} doubled"
    return json.dumps(parsed).encode(), f"{where} {action}"


def _ways(data: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in `data`, of long lists to a few."""
    if way:
        yield way
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, part in parts:
        if not isinstance(data, list) or key < 2 or key == len(data) - 1:
            yield from _ways(part, (*way, key))


def _get(data: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        data = data[key]
    return data


def _put(data: Any, way: tuple[Any, ...], value: Any) -> None:
    _get(data, way[:-1])[way[-1]] = value


def replace_by_link(path: Path, root: Path, outside: Path, draw: random.Random) -> str:
    """Put a link out of the folder `root`, or a pipe, in place of the file `path`, or of the folder that it lies in."""
    way = draw.choice(("file", "file", "folder", "nowhere", "itself", "pipe"))
    if way == "folder" and path.parent == root:  # which users may link as they like
        way = "file"
    if way == "folder":
        folder = path.parent
        target = outside / "folder"
        target.mkdir(exist_ok=True)
        for file in folder.iterdir():
            if file.is_file():
                (target / file.name).write_bytes(file.read_bytes())
        folder.rename(folder.with_name(f"{folder.name}-moved"))
        folder.symlink_to(target)
        return f"{folder.name}/ leads outside"
    content = path.read_bytes()
    path.unlink()
    if way == "pipe":
        os.mkfifo(path)
    elif way == "file":
        (outside / path.name).write_bytes(content)
        path.symlink_to(outside / path.name)
    else:
        path.symlink_to(path if way == "itself" else outside / "nowhere")
    return f"{path.name} leads to {way}" if way != "pipe" else f"{path.name} is a pipe"
