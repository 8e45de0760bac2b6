"""The measurement of a latency table, the same on a device and on the build machine, and the file of a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

from edgeoe.backends import Runner
from edgeoe.codec import read_record, record_text
from edgeoe.files import write_atomic
from edgeoe.measure.turns import time_in_turns
from edgeoe.progress import Progress, silent
from edgeoe.records.latency_table import FORMAT, TEACHER, LatencyTable
from edgeoe.run.received_file import errors_of_file

__all__ = ["complete_table", "read_table", "write_table"]

_AT_ONCE = 11  # variants that are loaded and measured together, beside the teacher
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

    Some variants at a time are measured in turns with the teacher, and count by their ratio to it.

    opened: name of a variant -> a context that builds and loads it.
    shape: (C, H, W) of an image.
    keep: is called with the table so far after each part, so that an interrupted table goes on where it stopped.
    """
    missing = [name for name in variants if name != TEACHER and name not in table.latencies_ms]
    with progress(f"Measuring on {table.target.name}", len(missing)) as advance:
        for names in _parts(missing, has_teacher=TEACHER in table.latencies_ms):
            with ExitStack() as stack:
                runners = [stack.enter_context(opened(TEACHER))]
                for name in names:
                    runners.append(stack.enter_context(opened(name)))
                    advance()
                table = _with_measured(table, names, runners, shape)
            keep(table)
    return table


def _parts(missing: Sequence[str], *, has_teacher: bool) -> Iterator[Sequence[str]]:
    """The variants that are measured at once; none where only the teacher is missing."""
    if not missing and not has_teacher:
        yield ()
    for at in range(0, len(missing), _AT_ONCE):
        yield missing[at : at + _AT_ONCE]


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
