"""Handling of Ctrl-C, SIGTERM and a closed terminal: one line, one exit code, and no half-written files.

Handlers must be installed before large imports, so this module imports only what Python has already loaded.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without typing
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "EXIT_CODE",
    "INTERRUPTED",
    "handling_signals",
    "interruption_line",
    "say_when_interrupted",
    "shielded",
    "was_interrupted",
    "work_begins",
]

EXIT_CODE = 130
INTERRUPTED = "interrupted: nothing half-written was left."
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # a system may lack some of them


class _State:
    """Signal state of the process, global because handlers take no state of their own.

    received: a stop signal has arrived.
    begun: work has begun, so there may be something to clean up.
    waiting: a stop signal arrived within a shielded block.
    shields: number of shielded blocks that are active.
    advice: what to do after an interruption.
    """

    received = begun = waiting = False
    shields = 0
    advice = ""


class handling_signals:  # noqa: N801 - a block, as contextlib's own are called
    """Raise KeyboardInterrupt for stop signals within a block; before `work_begins` they end the process at once.

    A signal that is ignored, as under nohup, stays ignored.
    until_exit: the process exits after the block, and later signals are ignored; otherwise the earlier handlers are
        restored.
    """

    def __init__(self, *, until_exit: bool) -> None:
        self._until_exit = until_exit
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> None:
        _State.received = _State.begun = _State.waiting = False
        _State.advice = ""
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
    """Whether a stop signal has arrived."""
    return _State.received


def say_when_interrupted(advice: str) -> None:
    """Add `advice` to the line that an interrupted command ends with."""
    _State.advice = advice


def interruption_line() -> str:
    """The line that an interrupted command ends with."""
    return f"{INTERRUPTED} {_State.advice}".rstrip()


def work_begins() -> None:
    """Declare that from now on an interruption must clean up."""
    _State.begun = True


class shielded:  # noqa: N801 - as above
    """Defer stop signals until the end of a short block."""

    def __enter__(self) -> None:
        _State.shields += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _State.shields -= 1
        if _State.shields:
            return
        deferred, _State.waiting = _State.waiting, False
        if deferred and kind is None:
            raise KeyboardInterrupt


def _stop(*_: object) -> None:
    _State.received = True
    if not _State.begun:  # an interrupted import may raise anything, or print a traceback and continue
        try:
            os.write(2, f"{INTERRUPTED}\n".encode())
        finally:
            os._exit(EXIT_CODE)
    sys.unraisablehook = sys.excepthook = _print_nothing
    if _State.shields:
        _State.waiting = True
    else:
        raise KeyboardInterrupt


def _print_nothing(*_: object) -> None:
    """Exception hook that hides the KeyboardInterrupt of a callback, a destructor or a second Ctrl-C."""
