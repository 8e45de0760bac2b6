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
from edgeoe.lock import is_abandoned, try_flock

__all__ = [
    "cache_folder",
    "file_sha256",
    "hidden_name",
    "new_parents",
    "path_in_report",
    "read_text",
    "sweep",
    "sync_folder",
    "way_out",
    "write_atomic",
]

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.partial", re.DOTALL)
_swept: set[Path] = set()  # folders without leftovers of processes that ended before this one wrote there


def cache_folder(name: str) -> Path:
    """The folder of the user's cache for files of one kind; it need not exist. Source: XDG base directories."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeoe" / name


def path_in_report(path: str | Path) -> str:
    """`path` for reports, which others read: an absolute one relative to the working folder, or its last part."""
    path = Path(path)
    if not path.is_absolute():
        return str(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


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


def write_atomic(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Call `write` with a temporary path beside `path`, then rename it, so that `path` is complete or unchanged.

    Missing parent folders are created, and removed again on failure. What a killed process left half-written in the
    folder is removed. An existing `path` that is not a regular file, such as /dev/stdout or a pipe, is written
    directly. Raises OSError, naming `path`, if it can't be written.

    durable: that holds through a power failure, too.
    """
    work_begins()
    if _is_special(path):
        with _naming(path, path):
            write(path)
        return
    with new_parents(path):
        if (folder := path.parent.resolve()) not in _swept:
            _swept.add(folder)
            sweep(folder)
        with _temporary(path) as (temporary, mode), _naming(path, temporary):
            write(temporary)
            if temporary.stat().st_mode & 0o777 != mode:  # the writer replaced it by a file of its own
                temporary.chmod(mode)
            if durable:
                _sync(temporary)
            temporary.replace(path)
        if durable:
            sync_folder(path.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, int]]:
    """A new, locked file beside `path`, removed after the block, and the permissions that the umask gives it."""
    while True:
        temporary = path.with_name(hidden_name(path.name, f"{secrets.token_hex(6)}.partial"))
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileExistsError:
            continue
        except OSError as reason:
            raise OSError(reason.errno, os.strerror(reason.errno or 0), str(path)) from reason
        if try_flock(descriptor, shared=False) is not False and temporary.exists():
            break
        os.close(descriptor)  # another process took it for a leftover
    try:
        yield temporary, os.fstat(descriptor).st_mode & 0o777
    finally:
        with shielded():
            temporary.unlink(missing_ok=True)
            os.close(descriptor)


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path, *, everything: bool = False) -> None:
    """Flush the names in a folder to the disk, where the system can do that.

    everything: also all files and folders in it; raises OSError if a file can't be written.
    """
    for path in folder.rglob("*") if everything else ():
        if path.is_file():
            _sync(path)
        else:
            sync_folder(path)
    with suppress(OSError):  # Windows opens no folder
        _sync(folder)


def hidden_name(name: str, suffix: str) -> str:
    """The name of a hidden file that belongs to the file `name`, cut where a file system would not take it."""
    return f".{os.fsencode(name)[:200].decode(errors='ignore')}.{suffix}"


def sweep(folder: Path, *, everything: bool = False) -> None:
    """Remove the temporary files of `write_atomic` in `folder` whose processes have ended.

    everything: also those in folders below.
    """
    with suppress(OSError):
        for path in folder.rglob("*.partial") if everything else folder.glob("*.partial"):
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and is_abandoned(path):
                path.unlink(missing_ok=True)


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
