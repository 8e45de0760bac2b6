"""TensorRT's Python bindings, and the callbacks for them: a logger and a progress monitor.

The functions import the bindings when they run, so that this module needs only the standard library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any

from edgeoe.errors import BackendError

if TYPE_CHECKING:
    import tensorrt

__all__ = ["BuildPhases", "bindings", "new_monitor", "one_line", "process_logger", "why"]

_OLDEST = (10, 3)
_log = logging.getLogger(__name__)


def bindings() -> Any:
    """The module `tensorrt`. Raises BackendError where it is missing or too old."""
    try:
        trt = import_module("tensorrt")
    except ImportError as reason:
        raise BackendError(
            f"TensorRT is not installed here ({reason}). On a Jetson it comes with JetPack: apt-get install "
            "python3-libnvinfer, and a venv made with --system-site-packages. Elsewhere: pip install 'tensorrt>=10.3'. "
            "From a machine that is not the device: edgeoe bundle RUN --target TARGET."
        ) from None
    version: str = trt.__version__
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        raise BackendError(f"TensorRT {version} is too old: edgeoe needs 10.3 or newer (JetPack 6 or later).")
    return trt


class BuildPhases:
    """TensorRT's nested build phases as one progress bar: each phase is one step of its parent.

    error: the exception of a callback. It must not pass through TensorRT, so the build is cancelled instead.
    """

    STEPS = 100  # of the bar

    def __init__(self, advance: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._advance = advance
        self._steps_shown = 0
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done
        self._lock = Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase of `steps` steps.

        parent: the phase that contains it; None for the whole build.
        """
        with self._catching():
            self._phases[name] = (parent, max(1, steps), 0)

    def step(self, name: str, step: int) -> bool:
        """Record that a step is done. Returns whether the build should go on.

        step: index of the step, from 0.
        """
        with self._catching():
            if name in self._phases:
                self._phases[name] = (*self._phases[name][:2], step + 1)
            share = max((self._share(root) for root, phase in self._phases.items() if phase[0] is None), default=0.0)
            while self._steps_shown < int(share * self.STEPS):
                self._steps_shown += 1
                self._advance()
        return self.error is None

    def finish(self, name: str) -> None:
        """End the phase."""
        with self._catching():
            self._phases.pop(name, None)

    @contextmanager
    def _catching(self) -> Iterator[None]:
        try:
            with self._lock:  # TensorRT calls from several threads
                yield
        except BaseException as reason:  # a KeyboardInterrupt above all
            self.error = reason

    def _share(self, name: str) -> float:
        _, steps, steps_done = self._phases[name]
        inner = max((self._share(child) for child, phase in self._phases.items() if phase[0] == name), default=0.0)
        return min(1.0, (steps_done + inner) / steps)


def new_monitor(trt: Any, phases: BuildPhases) -> Any:
    """A progress monitor for TensorRT that forwards to `phases`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


@cache
def process_logger(trt: Any) -> Any:
    """The only logger of this process, since TensorRT keeps the first one. Callers clear `errors`."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)
            else:
                _log.debug("TensorRT: %s", msg)

    return Logger()


def why(logger: Any) -> str:
    """The errors that TensorRT logged, on one line; empty without errors."""
    return one_line("; ".join(dict.fromkeys(logger.errors)))


def one_line(text: str) -> str:
    """`text` on one line, cut after 500 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 500 else f"{line[:500]}..."
