"""Versions of what is installed. The standard library alone."""

from __future__ import annotations

import re
import sys
from importlib import metadata

__all__ = ["version_numbers", "versions"]


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of edgeoe, Python and `packages`; those that are absent are left out."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("edgeoe", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def version_numbers(text: str | None) -> tuple[int, ...] | None:
    """The numbers of a version; None where it is not known, or is none."""
    return tuple(map(int, text.split("."))) if text and re.fullmatch(r"\d+\.\d+(\.\d+)*", text) else None
