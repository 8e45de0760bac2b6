"""Devices that are reached by SSH: a name, where each is, and the profile of what it is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from edgeoe.errors import ConfigError, quoted
from edgeoe.files import write_atomic
from edgeoe.registry import nearest
from edgeoe.toml_document import TomlDocument

__all__ = [
    "Device",
    "address_book_file",
    "find_device",
    "read_address_book",
    "require_device_name",
    "write_address_book",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    host: where it is, as ssh calls it: [user@]host[:port], or a Host of ~/.ssh/config.
    target: profile that describes it, or the path of its file.
    python: command that starts its Python there, such as the one of a virtual environment.
    folder: folder there that edgeoe keeps its files in.
    keep_mb: how much of them stays there between runs, in 10^6 bytes.
    """

    host: str
    target: str
    python: str = "python3"
    folder: str = "~/.cache/edgeoe-device"
    keep_mb: Annotated[int, Ge(0)] = 2000


def address_book_file() -> Path:
    """The file of the user's devices; it need not exist. Source: XDG base directories."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgeoe" / "devices.toml"


def read_address_book() -> dict[str, Device]:
    """The user's devices by name; none without a file. Raises ConfigError with file and line."""
    path = address_book_file()
    if not path.exists():
        return {}
    document = TomlDocument(path, error=ConfigError)
    devices = {}
    for name, table in document.tables.items():
        if not isinstance(table, dict) or not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: {name!r} is no device. A device is a table with host and target: [kitchen]")
        for field in ("host", "target"):
            if field not in table:
                raise document.complain(name, "", f"[{name}] lacks {field}.")
        devices[name] = document.record(name, Device)
    return devices


def find_device(name: str) -> Device:
    """The device of that name. Raises ConfigError for an unknown one."""
    book = read_address_book()
    if name not in book:
        hint = nearest(name, book) if book else "There is none yet."
        raise ConfigError(
            f"unknown device {name!r}. {hint} To name one: edgeoe devices add NAME --host USER@HOST --target PROFILE"
        )
    return book[name]


def write_address_book(devices: Mapping[str, Device]) -> None:
    """Replace the user's devices by `devices`; what equals a default is not written."""
    import tomli_w

    defaults = {field.name: field.default for field in fields(Device)}
    tables = {
        name: {key: value for key, value in asdict(device).items() if value != defaults[key]}
        for name, device in devices.items()
    }
    write_atomic(address_book_file(), lambda path: path.write_text(tomli_w.dumps(tables), encoding="utf-8"))


def require_device_name(name: str) -> None:
    """Raise ConfigError if `name` can't be that of a device."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a device can't be called {quoted(name)}: letters, digits, '_', '-' and '.', at most 63.")
