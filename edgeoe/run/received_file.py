"""Errors of reading files that come from elsewhere, in the user's words. Needs only the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeoe.errors import RunError

__all__ = ["errors_of_file"]


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
        problem = str(reason).removeprefix(f"{kind.__name__}.")
        raise RunError(f"{path}: not a {called} of this version of edgeoe ({problem}).") from None
