"""Ctrl-C, SIGTERM and a closed terminal: at any moment one line, one exit code, and nothing half-written.

Handlers must stand before anything large is imported, so this imports what Python has loaded by then, and no more.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without typing
if TYPE_CHECKING:
    from typing import Any

__all__ = ["EXIT_CODE", "INTERRUPTED", "handling_signals", "shielded", "was_interrupted", "work_begins"]

EXIT_CODE = 130
INTERRUPTED = "interrupted: nothing half-written was left."
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # of which a system has some


class _State:
    """The process has one: signals know no other place.

    received: a signal asked to stop. begun: there may be something to clean up. shields: blocks that must not be cut
    short. waiting: a signal came meanwhile.
    """

    received = begun = waiting = False
    shields = 0


class handling_signals:  # noqa: N801 - a block, as contextlib's own are called
    """A block in which a signal that asks to stop becomes a KeyboardInterrupt; before `work_begins` the process ends.

    A signal that is ignored, as under nohup, stays ignored. until_exit: the process ends with the block, and no signal
    disturbs its end; else the earlier handlers return.
    """

    def __init__(self, *, until_exit: bool) -> None:
        self._until_exit = until_exit
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> None:
        _State.received = _State.begun = _State.waiting = False
        self._hooks = sys.unraisablehook, sys.excepthook
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is None or signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._earlier[number] = signal.signal(number, _stop)
            except ValueError:  # handlers are the main thread's
                return

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_IGN if self._until_exit else handler)
        if not self._until_exit:
            sys.unraisablehook, sys.excepthook = self._hooks


def was_interrupted() -> bool:
    """Whether a signal has asked to stop."""
    return _State.received


def work_begins() -> None:
    """From now on an interruption has something to clean up."""
    _State.begun = True


class shielded:  # noqa: N801 - as above
    """A short block that runs to its end: a signal that comes meanwhile takes effect after it."""

    def __enter__(self) -> None:
        _State.shields += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _State.shields -= 1
        if _State.shields:
            return
        waited, _State.waiting = _State.waiting, False
        if waited and kind is None:
            raise KeyboardInterrupt


def _stop(*_: object) -> None:
    _State.received = True
    if not _State.begun:  # an import that is cut short may raise anything, or print a traceback and go on
        try:
            os.write(2, f"{INTERRUPTED}\n".encode())
        finally:
            os._exit(EXIT_CODE)
    sys.unraisablehook = sys.excepthook = _say_nothing
    if _State.shields:
        _State.waiting = True
    else:
        raise KeyboardInterrupt


def _say_nothing(*_: object) -> None:
    """What a callback, a destructor or a second Ctrl-C makes of the KeyboardInterrupt is nobody's news."""
