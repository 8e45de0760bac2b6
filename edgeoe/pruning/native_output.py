"""What compiled code prints past Python, to the file descriptor of the standard output."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["native_output_dropped"]

_STDOUT = 1
_lock = threading.Lock()
_inside = 0  # blocks that threads are in
_saved: int | None = None  # the descriptor of the standard output meanwhile


@contextmanager
def native_output_dropped() -> Iterator[None]:
    """A block in which nothing reaches the standard output of the process, not even what compiled code prints.

    The descriptor belongs to all threads: what others print there meanwhile is dropped, too, and it is restored once no
    thread is in such a block. What was printed before comes out before. Without a standard output nothing is done.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _saved
    with _lock:
        _inside += 1
        if _inside > 1:
            return
        _flush()
        with suppress(OSError):  # it is closed
            saved = os.dup(_STDOUT)
            try:
                _point_to_null()
            except OSError:
                os.close(saved)
                raise
            _saved = saved


def _leave() -> None:
    global _inside, _saved
    with _lock:
        _inside -= 1
        if _inside or _saved is None:
            return
        _flush_c()
        os.dup2(_saved, _STDOUT)
        os.close(_saved)
        _saved = None


def _point_to_null() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)


def _flush() -> None:
    """Write out what waits in the buffers of Python and of C."""
    with suppress(OSError, ValueError):  # closed, or a pipe that nobody reads
        if sys.stdout is not None:
            sys.stdout.flush()
    _flush_c()


def _flush_c() -> None:
    """Write out what waits in the buffers of C: it would come out later, after the block."""
    with suppress(OSError, TypeError, AttributeError):  # no C library to be called here
        ctypes.CDLL(None).fflush(None)
