"""The cores that a profile pins measurements to: `[runtime] affinity`. Needs only the standard library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgeoe.errors import BackendError

if TYPE_CHECKING:
    from edgeoe.backends import Backend, Runner
    from edgeoe.targets.profile import Target

__all__ = ["keep_on", "loaded_on_cores", "on_cores"]


def keep_on(cores: Sequence[int]) -> None:
    """Keep this thread, and those that it starts from now on, on `cores`.

    Raises BackendError if one of them can't be used here.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise BackendError("[runtime] affinity: this system can't keep a process on cores. Remove it.")
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise BackendError(f"[runtime] affinity = {[*cores]}: the cores that can be used here are {usable}.") from None


@contextmanager
def on_cores(cores: Sequence[int] | None) -> Iterator[None]:
    """A block in which this thread, and those that it starts, are kept on `cores`; None keeps them nowhere.

    Threads that are started within stay there. Raises as `keep_on` does.
    """
    before = os.sched_getaffinity(0) if cores is not None and hasattr(os, "sched_getaffinity") else None
    if cores is not None:
        keep_on(cores)
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


@contextmanager
def loaded_on_cores(backend: Backend, artifact: Path, target: Target) -> Iterator[Runner]:
    """A context that loads `artifact`; the threads that its runtime starts for it stay on the cores of `target`.

    Raises BackendError if it can't be loaded, or a core can't be used.
    """
    with ExitStack() as stack:
        with on_cores(target.runtime.affinity):
            runner = stack.enter_context(backend.open(artifact, target))
        yield runner
