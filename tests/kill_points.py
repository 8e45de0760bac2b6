"""Replaces a run by another in a child process that is killed at one line after the other; prints how many lines.

Arguments: a folder, and "exchange", or "rename", as systems that can't exchange two folders do, or "new", where there
is no earlier run.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from edgeoe.run import creation, layout, placement
from edgeoe.run.creation import new_run
from edgeoe.run.directory import Run
from edgeoe.run.layout import RecordFile

WATCHED = {creation.__file__, placement.__file__}


@dataclass(frozen=True)
class Seed:
    seed: int


FINISHED = RecordFile(layout.COMPRESS.name, "compress", Seed)


def make(path: Path, seed: int) -> None:
    with new_run(path, overwrite=True) as run:
        run.save(FINISHED, Seed(seed))


def kill_at(line: int) -> None:
    """Have this process killed when it comes to that line of the watched files, counted from 0."""
    lines = count()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line" and next(lines) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def main(folder: Path, way: str) -> None:
    path = folder / "a"
    if way == "rename":
        placement._exchange = lambda *_: False
    make(path, 0)
    for line in count():
        if way == "new":
            shutil.rmtree(path)
        child = os.fork()
        if not child:
            kill_at(line)
            make(path, line + 1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), status
        if way == "exchange":
            assert Run(path).read(FINISHED).seed in (0, line + 1), "whole at any moment"
        if way != "new" or path.exists():
            assert Run.open(path).read(FINISHED).seed in (0, line + 1), "whole for the next command"
        make(path, 0)
        left = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))
        assert left == ["a", "a/compress.json", "a/manifest.json"], left
        if not status:
            sys.stdout.write(str(line))
            return


if __name__ == "__main__":
    setattr(os, "fsync", lambda _: None)  # noqa: B010 - mypy knows its parameter by another name
    main(Path(sys.argv[1]), sys.argv[2])
