"""Output files that the user requests with an option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeoe.codec import to_json
from edgeoe.errors import ConfigError
from edgeoe.files import write_atomic

__all__ = ["write_json", "write_text"]


def write_text(option: str, path: Path | None, text: str) -> None:
    """Write `text` to `path`, the value of `option`, unless it is None. Raises ConfigError if it can't be written."""
    if path is None:
        return
    try:
        write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as reason:
        raise ConfigError(f"{option} {path}: can't be written: {reason.strerror}.") from None


def write_json(path: Path | None, record: Any) -> None:
    """Write `record` to `path`, the value of `--json`, unless it is None."""
    if path is not None:
        write_text("--json", path, json.dumps(to_json(record), indent=2) + "\n")
