"""Runs of two small files, for tests of where files are and when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeoe.run import layout
from edgeoe.run.creation import new_run
from edgeoe.run.layout import RecordFile


@dataclass(frozen=True)
class Note:
    n: int
    text: str = ""


A, B = RecordFile("deep/a.json", "test", Note), RecordFile("b.json", "test", Note, format=2)
FINISHED = RecordFile(layout.COMPRESS.name, "compress", Note)  # a run is known by this file alone


def everything(folder: Path) -> list[str]:
    """All that is below `folder`, hidden things too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def make_run(path: Path, *, seed: int = 0, overwrite: bool = False, end: type[BaseException] | None = None) -> Path:
    """A run; with `end` it is cut short by that exception when all its files are written."""
    with new_run(path, overwrite=overwrite) as run:
        run.describe(seed=seed, versions={})
        run.save(FINISHED, Note(seed))
        if end is not None:
            raise end
    return path


HOLD = """
import sys
from pathlib import Path
from edgeoe.run.creation import new_run
from edgeoe.run.directory import Run

with new_run(Path(sys.argv[1]), overwrite=True) if sys.argv[2] == "make" else Run(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_by_another(path: Path, *, making: bool = False) -> Iterator[int]:
    """A block in which another process uses the run `path`, or is making it. Yields its process id."""
    command = [sys.executable, "-c", HOLD, str(path), "make" if making else "use"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
        holder.stdin.close()
