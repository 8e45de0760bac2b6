"""Processes that a block starts through multiprocessing, and how they end with it."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from edgeoe.interruption import shielded

__all__ = ["children_end_here", "hear_interrupts"]


@contextmanager
def children_end_here() -> Iterator[None]:
    """A block that none of its processes survives; a Ctrl-C while they start waits until they `hear_interrupts`.

    Without, one that computes on would be waited for when the program exits, and one that is still importing would
    print a traceback.
    """
    start = BaseProcess.start
    BaseProcess.start = _start_deaf(start)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        BaseProcess.start = start  # type: ignore[method-assign]
        with shielded():
            _end(multiprocessing.active_children())


def hear_interrupts() -> None:
    """In a process that was started in `children_end_here`: from now on Ctrl-C is a KeyboardInterrupt."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _start_deaf(start: Callable[[BaseProcess], None]) -> Callable[[BaseProcess], None]:
    def start_deaf(process: BaseProcess) -> None:
        if not hasattr(signal, "pthread_sigmask"):
            return start(process)
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits it
        try:
            return start(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)

    return start_deaf


def _end(children: Sequence[BaseProcess]) -> None:
    for child in children:
        child.terminate()
    for child in children:
        child.join(timeout=5)
        if child.is_alive():
            child.kill()
            child.join()
