"""Atomic writes, file hashes and text decoding. Imports the standard library only."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from edgeoe.interruption import shielded, work_begins

__all__ = ["cache_folder", "file_sha256", "new_parents", "read_text", "way_out", "write_atomic"]


def cache_folder(name: str) -> Path:
    """The folder of the user's cache for files of one kind; it need not exist. Source: XDG base directories."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeoe" / name


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def way_out(folder: Path, name: str) -> Path | None:
    """What leads out of `folder` on the way to `name`, a path relative to it: a link, a pipe, a device, or `..`.

    Returns None if the whole way lies within `folder`, whether or not it exists. `folder` itself may be a link.
    """
    parts = PurePath(name).parts
    if PurePath(name).is_absolute() or ".." in parts:
        return folder / name
    places = (folder.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))
    return next((place for place in places if place.is_symlink() or _is_special(place)), None)


def _is_special(path: Path) -> bool:
    """Whether `path` exists and is neither a regular file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then rename it, so that `path` is complete or unchanged.

    Missing parent folders are created, and removed again on failure. An existing `path` that is not a regular file,
    such as /dev/stdout or a pipe, is written directly. Raises OSError, naming `path`, if it can't be written.
    """
    work_begins()
    if _is_special(path):
        with _naming(path, path):
            write(path)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")  # nobody can plant a link there
    with _naming(path, temporary), new_parents(path):
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            with shielded():
                temporary.unlink(missing_ok=True)


@contextmanager
def new_parents(path: Path) -> Iterator[None]:
    """Create the parent folders of `path` for a block; if it raises, remove those that are new and empty."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with shielded(), suppress(OSError):  # stops at the first that is not empty or does not exist
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Convert an error in writing `temporary` to an OSError that names `path`."""
    try:
        yield
    except OSError as reason:
        if reason.errno is None or reason.filename not in (None, str(temporary)):
            raise
        raise OSError(reason.errno, os.strerror(reason.errno), str(path)) from reason
    except Exception as reason:
        rust = re.search(r"\(os error (\d+)\)", str(reason))  # as safetensors words it
        if rust is None:
            raise
        raise OSError(int(rust[1]), os.strerror(int(rust[1])), str(path)) from reason


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark, or in UTF-16 with one, as Windows writes it.

    Raises OSError if it can't be read, and ValueError if its encoding is neither.
    """
    data = path.read_bytes()
    return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
