"""A compression in a process of its own that is killed at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeoe.settings import CompressSettings

__all__ = ["compress_killed"]


def compress_killed(settings: CompressSettings, out: Path, *, event: int | None = None) -> int:
    """Compress into `out`, saving all work at once, and kill the process (SIGKILL) at `event`.

    event: the number of a training step, of a computed value, or of a moment before, during or after the writing of a
        file; None goes on to the end.
    Returns how many events there were; 0 if it was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["edgeoe.stages.compress"])
    events = context.Value("i", 0)
    process = context.Process(target=_compress, args=(settings, out, event, events))
    process.start()
    process.join(timeout=300)
    assert process.exitcode in (0, -signal.SIGKILL)
    return int(events.value) if process.exitcode == 0 else 0


def _compress(settings: CompressSettings, out: Path, event: int | None, events: Any) -> None:
    from meters import count_instead
    from torch.optim import SGD

    from edgeoe.models import rebuild
    from edgeoe.pruning.prune import count_macs
    from edgeoe.run import directory, saved_work
    from edgeoe.stages.compress import compress

    def happens() -> None:
        events.value += 1
        if events.value == event:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            happens()
            return function(*arguments, **options)

        return call

    def interruptible(write_atomic: Callable[..., None]) -> Callable[..., None]:
        def write(path: Path, write: Callable[[Path], object], **options: bool) -> None:
            def written(temporary: Path) -> None:
                write(temporary)
                happens()

            happens()
            write_atomic(path, written, **options)
            happens()

        return write

    patch = pytest.MonkeyPatch()
    count_instead(patch)
    patch.setattr(rebuild, "_in_fresh_process", rebuild.main)
    patch.setattr("edgeoe.stages.speedup._SECONDS", 0.0)
    patch.setattr(
        "edgeoe.stages.compress.probe_on_first",
        lambda *_: lambda models: [count_macs(model, (3, 16, 16)) / 1e6 for model in models],
    )
    patch.setattr(saved_work, "EVERY_S", 0.0)
    patch.setattr(SGD, "step", before(SGD.step))
    patch.setattr(saved_work.SavedWork, "kept", before(saved_work.SavedWork.kept))
    for module in (saved_work, directory):
        patch.setattr(module, "write_atomic", interruptible(module.write_atomic))
    compress(settings, out=out)
