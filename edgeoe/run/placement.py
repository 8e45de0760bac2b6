"""Folders that appear, are replaced and disappear at once, so that a kill at any moment leaves the old or the new one.

Beside the folder `a` there may be, hidden:

    .a.partial             what is being made, locked by the command that makes it
    .a.<12 digits>.old     what nobody needs any more, about to be removed
    .a.previous            the earlier run, for a moment, where the system can't exchange two folders; it is put back if
                           the command ended in that moment

A link in place of one of them is not followed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from edgeoe.errors import RunError
from edgeoe.files import hidden_name, new_parents, sync_folder
from edgeoe.interruption import shielded
from edgeoe.lock import BusyError, Lock, locked

__all__ = ["LOCK", "discard", "partial_folder", "replace_folder", "restore", "sweep_discarded", "work_folder"]

LOCK = ".lock"  # the lock file in a run's folder; no file of the run
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}  # of the kernel, or of the file system


def partial_folder(path: Path) -> Path:
    """The folder in which `path` is made."""
    return path.with_name(hidden_name(path.name, "partial"))


@contextmanager
def work_folder(path: Path, *, timeout_s: float) -> Iterator[Lock]:
    """A block that makes `path` in an empty `partial_folder`, which no other command uses, and which is removed after.

    Missing parent folders are created, and removed again if the block fails. What a killed command left is removed.
    Yields the lock on the folder; a block that moves the folder to `path` moves that along.

    timeout_s: how long to wait for another command that makes `path`.
    Raises RunError, which names --out, if that goes on, or the folder can't be created.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(new_parents(path))
            while (lock := _enter_work_folder(path, stack, timeout_s)) is None:
                pass  # its owner has just moved it
        except BusyError as reason:
            message = f"{path}: being made by {reason}. Wait until that has ended, or choose another --out."
            raise RunError(message) from None
        except OSError as reason:
            raise RunError(f"{path}: can't be created: {reason.strerror}. Choose another --out.") from None
        sweep_discarded(path)
        place = lock.path
        try:
            yield lock
        finally:
            if lock.path == place:
                with shielded():
                    discard(partial_folder(path), beside=path)


def _enter_work_folder(path: Path, stack: ExitStack, timeout_s: float) -> Lock | None:
    """Create and lock the folder in which `path` is made; None if it was removed meanwhile, or had to be."""
    folder = partial_folder(path)
    if folder.is_symlink():  # which came with a run from elsewhere, and leads to what is not edgeoe's
        folder.unlink(missing_ok=True)
    with suppress(FileNotFoundError), ExitStack() as attempt:
        folder.mkdir(exist_ok=True)
        try:
            lock = attempt.enter_context(locked(folder / LOCK, timeout_s=timeout_s))
        except OSError:
            with suppress(OSError):
                folder.rmdir()  # unless somebody else has just locked it
            raise
        if all(file.name == LOCK for file in folder.iterdir()):
            stack.push(attempt.pop_all())
            return lock
        discard(folder, beside=path)  # of a command that was killed
    return None


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
        if _is_folder(previous) and not path.exists():
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
        if _is_folder(previous) and path.exists():
            with locked(previous / LOCK):
                discard(previous, beside=path)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _previous(path: Path) -> Path:
    return path.with_name(hidden_name(path.name, "previous"))
