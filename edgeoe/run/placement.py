"""Folders that appear, are replaced and disappear at once, so that a kill at any moment leaves the old or the new one.

Beside the folder `a` there may be, hidden:

    .a.partial             a run in the making, locked by the command that makes it
    .a.<12 digits>.old     what nobody needs any more, about to be removed
    .a.previous            the earlier run, for a moment, where the system can't exchange two folders; it is put back if
                           the command ended in that moment
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from edgeoe.files import hidden_name, sync_folder
from edgeoe.lock import BusyError, locked

__all__ = ["LOCK", "discard", "partial_folder", "replace_folder", "restore", "sweep_discarded"]

LOCK = ".lock"  # the lock file in a run's folder; no file of the run
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}  # of the kernel, or of the file system


def partial_folder(path: Path) -> Path:
    """The folder in which the run `path` is made."""
    return path.with_name(hidden_name(path.name, "partial"))


def replace_folder(new: Path, path: Path) -> bool:
    """Move the folder `new` to `path`. Returns whether `new` then holds what was at `path`.

    An empty folder at `path` is replaced, too. With renameat2 (Linux) or renamex_np (macOS) `path` holds the old or the
    new folder at any moment. Elsewhere, as on NFS, it is absent between two renames; `restore` mends a kill there.
    """
    if not path.exists() or not any(path.iterdir()):
        new.rename(path)
        sync_folder(path.parent)
        return False
    if not _exchange(new, path):
        previous = _previous(path)
        path.rename(previous)
        try:
            new.rename(path)
        except OSError:
            previous.rename(path)
            raise
        previous.rename(new)
    sync_folder(path.parent)
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once. Returns whether the system can do that."""
    if os.name != "posix":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(first, second, _RENAME_SWAP)
    elif hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE)
    else:
        return False
    if failed and (number := ctypes.get_errno()) not in _NO_EXCHANGE:
        raise OSError(number, os.strerror(number), str(other))
    return not failed


def restore(path: Path, *, timeout_s: float) -> None:
    """Put back the folder that a command, which ended between two renames, left aside."""
    previous = _previous(path)
    with suppress(FileNotFoundError, BusyError):  # its owner lives, and goes on
        if previous.is_dir() and not path.exists():
            with locked(previous / LOCK, timeout_s=timeout_s) as lock:
                if not path.exists():
                    previous.rename(path)
                    lock.path = path / LOCK


def discard(folder: Path, *, beside: Path) -> None:
    """Remove a folder that this process has locked, at once for everybody else.

    beside: the run's folder, which lies in the same place.
    """
    if folder.exists():
        aside = beside.with_name(hidden_name(beside.name, f"{secrets.token_hex(6)}.old"))
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def sweep_discarded(path: Path) -> None:
    """Finish the removal of what was discarded beside `path`, by a command that was killed meanwhile."""
    name = re.compile(re.escape(hidden_name(path.name, "")) + r"[0-9a-f]{12}\.old")
    with suppress(OSError):
        for folder in path.parent.iterdir():
            if name.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
    previous = _previous(path)
    with suppress(FileNotFoundError, BusyError):
        if previous.is_dir() and path.exists():
            with locked(previous / LOCK):
                discard(previous, beside=path)


def _previous(path: Path) -> Path:
    return path.with_name(hidden_name(path.name, "previous"))
