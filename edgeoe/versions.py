"""Versions of what is installed. The standard library alone."""

from __future__ import annotations

import sys
from importlib import metadata

__all__ = ["versions"]


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of edgeoe, Python and `packages`; those that are absent are left out."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("edgeoe", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
