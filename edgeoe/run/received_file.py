"""Errors of reading files that come from elsewhere, in the user's words. Needs only the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeoe.errors import RunError

__all__ = ["errors_of_file"]

_ARCHIVE = "an archive"
_FROM_BUNDLE = " If it is a bundle: unpack it on the device, run its run.py there, and give the file that this writes."
_MAGIC = {b"\x1f\x8b": 0, b"\x28\xb5\x2f\xfd": 0, b"PK\x03\x04": 0, b"ustar": 257}  # of archives, and at which byte


@contextmanager
def errors_of_file(path: Path, kind: type[object], *, called: str) -> Iterator[None]:
    """A block that reads a record of class `kind` from `path`, and raises RunError if the file is missing or invalid.

    called: what users call such a file.
    """
    try:
        yield
    except FileNotFoundError:
        raise RunError(f"{path}: no such file.") from None
    except OSError as reason:
        raise RunError(f"{path}: can't be read: {reason.strerror}.") from None
    except ValueError as reason:
        if what := _instead(path):
            raise RunError(f"{path}: {what}, not a {called}.{_FROM_BUNDLE if what == _ARCHIVE else ''}") from None
        problem = str(reason).removeprefix(f"{kind.__name__}.")
        raise RunError(f"{path}: not a {called} of this version of edgeoe ({problem}).") from None


def _instead(path: Path) -> str:
    """What the file is, if it is no text at all; empty if it may be one."""
    try:
        if not path.is_file():  # a pipe is read only once
            return ""
        with path.open("rb") as stream:
            start = stream.read(512)
    except OSError:
        return ""
    if any(start[at:].startswith(magic) for magic, at in _MAGIC.items()):
        return _ARCHIVE
    return "a binary file" if b"\0" in start else ""
