"""Versions of installed packages. Imports the standard library only."""

from __future__ import annotations

import re
import sys
from importlib import metadata

__all__ = ["version_numbers", "versions"]


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of Python, edgeoe and `packages`, without those that are not installed."""
    installed = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("edgeoe", *packages):
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def version_numbers(text: str | None) -> tuple[int, ...] | None:
    """The numbers of a version; None if it is unknown or not a version."""
    return tuple(map(int, text.split("."))) if text and re.fullmatch(r"\d+\.\d+(\.\d+)*", text) else None
