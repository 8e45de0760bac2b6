"""Locks between processes, which the system releases when their owner ends, however it ends.

A lock is a file that its holder has locked with flock. Its content names the holder, for messages; only the lock
itself decides. Imports the standard library only.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import Any

__all__ = ["BusyError", "Lock", "is_abandoned", "locked", "try_flock"]

_fcntl: Any = import_module("fcntl") if os.name == "posix" else None
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
_CANNOT_CREATE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
_IN_ITS_PLACE = {errno.ELOOP, errno.EISDIR}  # a link, which is not followed, or a folder
_log = logging.getLogger(__name__)
_held: dict[tuple[int, str], Lock] = {}  # by thread and path, so that a thread may take its lock again
_warned: list[Path] = []  # the first folder without locks


class BusyError(Exception):
    """Another process holds the lock. `str(error)` says which, with its command and since when, as far as known."""


@dataclass(slots=True)
class Lock:
    """A lock that this thread holds.

    path: of its file, which moves where its folder moves.
    descriptor: of the open file; None where nothing could be locked.
    """

    path: Path
    descriptor: int | None
    shared: bool


@contextmanager
def locked(path: Path, *, shared: bool = False, timeout_s: float = 0.0) -> Iterator[Lock]:
    """Hold the lock file `path` for a block; it is removed after it. The folder of `path` must exist.

    A thread that holds the lock may take it again. Where the file system has no locks, a warning is logged, once; where
    the file can't be created, a shared lock is none.

    shared: several processes may hold the lock at once, none of them exclusively.
    timeout_s: how long to wait for other holders; may be infinite.
    Raises BusyError after that, and OSError if the file can't be created.
    """
    path = path.parent.resolve() / path.name
    key = (threading.get_ident(), str(path))
    if (holding := _held.get(key)) is not None and (shared or not holding.shared):
        yield holding
        return
    if holding is not None:
        raise RuntimeError(f"{path}: a shared lock can't become exclusive")
    lock = _held[key] = _acquire(path, shared=shared, timeout_s=timeout_s)
    try:
        yield lock
    finally:
        del _held[key]
        _release(lock)


def _acquire(path: Path, *, shared: bool, timeout_s: float) -> Lock:
    deadline, told = monotonic() + timeout_s, False
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as reason:
            if shared and reason.errno in _CANNOT_CREATE:
                return _read_only(path)
            place = path if reason.errno in _IN_ITS_PLACE else path.parent
            raise OSError(reason.errno, os.strerror(reason.errno or 0), str(place)) from reason
        try:
            got = try_flock(descriptor, shared=shared)
            if got is None:
                _warn_without_locks(path.parent)
            if got is not False and _is_at(descriptor, path):
                _write_holder(descriptor)
                return Lock(path, descriptor, shared)
            if got is False and monotonic() >= deadline:
                raise BusyError(_holder(descriptor))
            if got is False and timeout_s == float("inf") and not told:
                _log.warning("%s is in use by %s: waiting for it to end", path.parent, _holder(descriptor))
                told = True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if got is False:
            sleep(random.uniform(0.01, 0.03))  # noqa: S311 - so that waiting processes take turns


def _read_only(path: Path) -> Lock:
    """A shared lock where this user can't create or write the file: on an existing one, or none."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            if try_flock(descriptor, shared=True) is False:
                raise BusyError(_holder(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return Lock(path, descriptor, shared=True)
    return Lock(path, None, shared=True)


def _release(lock: Lock) -> None:
    """Remove the file of `lock` if no other process holds it, and let go."""
    if lock.descriptor is None:
        return
    with suppress(OSError):
        if try_flock(lock.descriptor, shared=False) is not False and _is_at(lock.descriptor, lock.path):
            lock.path.unlink()
    os.close(lock.descriptor)


def try_flock(descriptor: int, *, shared: bool) -> bool | None:
    """Lock an open file without waiting. Returns whether that succeeded; None where the file system has no locks."""
    if _fcntl is None:
        return None
    try:
        _fcntl.flock(descriptor, (_fcntl.LOCK_SH if shared else _fcntl.LOCK_EX) | _fcntl.LOCK_NB)
    except OSError as reason:
        if reason.errno in _WITHOUT_LOCKS:
            return None
        if isinstance(reason, BlockingIOError) or reason.errno == errno.EACCES:
            return False
        raise
    return True


def is_abandoned(path: Path) -> bool:
    """Whether the process that created and locked the file `path` has ended; False where that can't be known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        return try_flock(descriptor, shared=False) is True and _is_at(descriptor, path)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: its last holder may have removed it, or moved its folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _write_holder(descriptor: int) -> None:
    """Name this process in its lock file; the lock holds without."""
    command = shlex.join(["edgeoe", *sys.argv[1:]]) if "edgeoe" in sys.argv[0] else shlex.join(sys.argv) or "python"
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command[:200],
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    with suppress(OSError):
        if os.fstat(descriptor).st_nlink > 1:  # another file, too
            return
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())  # which is empty, at its start


def _holder(descriptor: int) -> str:
    """The process that holds the lock file, as words for a message."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = json.loads(os.read(descriptor, 4096))
        pid, host, command, since = (holder[key] for key in ("pid", "host", "command", "since"))
        if not (isinstance(pid, int) and pid > 0 and all(isinstance(text, str) for text in (host, command, since))):
            return "another process"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    command, since, host = (
        "".join(sign if sign.isprintable() else "?" for sign in text) for text in (command, since, host)
    )
    if host != socket.gethostname():
        return f"process {pid} on {host} ({command}), since {since}"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:  # one of several that shared the lock
        return "another process"
    except OSError:
        pass  # of another user
    return f"process {pid} ({command}), since {since}"


def _warn_without_locks(folder: Path) -> None:
    if not _warned:
        _log.warning("%s: its file system has no locks. Run one edgeoe command at a time there.", folder)
        _warned.append(folder)
