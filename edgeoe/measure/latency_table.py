"""The measurement of a latency table, the same on a device and on the build machine, and the file of a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeoe.backends import Runner
from edgeoe.codec import read_record, record_text
from edgeoe.files import write_atomic
from edgeoe.machine.memory import available_bytes
from edgeoe.measure.turns import time_in_turns
from edgeoe.progress import Progress, silent
from edgeoe.records.latency_table import FORMAT, TEACHER, LatencyTable
from edgeoe.run.received_file import errors_of_file
from edgeoe.targets.profile import Target

__all__ = ["complete_table", "read_table", "write_table"]

_AT_ONCE = 11  # variants that are loaded and measured together, beside the teacher
_MEMORY_SHARE = 0.5  # of the free memory that they may take, but for the first: building one takes more for a moment
_CALLS, _MIN_TURNS, _SECONDS = 3, 12, 1.5


def complete_table(
    table: LatencyTable,
    variants: Iterable[str],
    opened: Callable[[str], AbstractContextManager[Runner]],
    *,
    shape: tuple[int, int, int],
    keep: Callable[[LatencyTable], object],
    progress: Progress = silent,
) -> LatencyTable:
    """`table` with the latencies of all `variants`; those that it has are not measured again.

    Some variants at a time, as many as fit into the memory, are measured in turns with the teacher, and count by their
    ratio to it.

    opened: name of a variant -> a context that builds and loads it.
    shape: (C, H, W) of an image.
    keep: is called with the table so far after each part, so that an interrupted table goes on where it stopped.
    """
    missing = [name for name in variants if name != TEACHER and name not in table.latencies_ms]
    if not missing and TEACHER in table.latencies_ms:
        return table
    with progress(f"Measuring on {table.target.name}", len(missing)) as advance:
        while missing or TEACHER not in table.latencies_ms:
            with ExitStack() as stack:
                runners = []
                for runner in _fitting((TEACHER, *missing[:_AT_ONCE]), opened, stack, table.target, shape):
                    runners.append(runner)
                    if len(runners) > 1:
                        advance()
                names = missing[: len(runners) - 1]
                table = _with_measured(table, names, runners, shape)
            missing = missing[len(names) :]
            keep(table)
    return table


def _fitting(
    names: Sequence[str],
    opened: Callable[[str], AbstractContextManager[Runner]],
    stack: ExitStack,
    target: Target,
    shape: tuple[int, int, int],
) -> Iterator[Runner]:
    """Load the first of `names` on `stack` that fit into the memory, at least two of them if there are as many.

    Each is called once, so that it takes what it needs; where the memory is unknown, all are loaded.
    """
    x = np.zeros((target.measure.batch, *shape), np.float32)
    free_bytes = available_bytes()
    for count, name in enumerate(names):
        if count > 1 and _is_taken(free_bytes):
            return
        runner = stack.enter_context(opened(name))
        runner.infer(x)
        yield runner


def _is_taken(free_bytes: int | None) -> bool:
    """Whether what was free at first is taken by as much as it may be; False where it is unknown."""
    now = available_bytes()
    return free_bytes is not None and now is not None and now <= free_bytes * (1 - _MEMORY_SHARE)


def _with_measured(
    table: LatencyTable, names: Sequence[str], runners: Sequence[Runner], shape: tuple[int, int, int]
) -> LatencyTable:
    """runners: of the teacher, then of the variants `names`."""
    teacher_ms, *turns = time_in_turns(
        runners, table.target, shape=shape, min_turns=_MIN_TURNS, seconds=_SECONDS, calls=_CALLS
    )
    whole = table.latencies_ms.get(TEACHER) or statistics.median(teacher_ms)
    measured = {TEACHER: whole}
    for name, variant_ms in zip(names, turns, strict=True):
        measured[name] = whole * statistics.median(ms / of for ms, of in zip(variant_ms, teacher_ms, strict=True))
    return replace(table, latencies_ms={**table.latencies_ms, **measured})


def write_table(path: Path, table: LatencyTable) -> None:
    """Write `table` as JSON, atomically."""
    write_atomic(path, lambda file: file.write_text(record_text(table, format=FORMAT), encoding="utf-8"))


def read_table(path: Path) -> LatencyTable:
    """Read and validate the table that `write_table` wrote. Raises RunError if the file is not a valid table."""
    with errors_of_file(path, LatencyTable, called="latency table"):
        return read_record(LatencyTable, path, format=FORMAT)
