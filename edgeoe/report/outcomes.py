"""The table of a student on several targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from edgeoe.records.measurement import Estimate, Validation
from edgeoe.report.terminal import COLOUR, table

__all__ = ["outcome_table"]

_HEADER = ("target", "verdict", "p50 ms", "p99 ms", "top-1 %", "rarest classes %", "versions")


def outcome_table(results: Sequence[Any]) -> Table:
    """A row for each target: what `deploy` returned, in its order."""
    return table("targets", _HEADER, [[*_row(result)] for result in results])


def _row(result: Any) -> Iterator[str | Text]:
    validation: Validation | None = getattr(result, "validation", None)
    yield result.target.name
    if validation is None:
        yield Text("not judged", COLOUR["inconclusive"])
        yield from ("",) * (len(_HEADER) - 2)
        return
    measured = validation.measurement
    yield Text(validation.outcome, COLOUR[validation.outcome])
    speed, accuracy = measured.speed, measured.accuracy
    yield _figure(speed.latency.p50 if speed else None, 1, 3)
    yield _figure(speed.latency.p99 if speed else None, 1, 3)
    yield _figure(accuracy.top1 if accuracy else None, 100, 1)
    yield _figure(accuracy.rare_recall if accuracy else None, 100, 1)
    versions = measured.environment.get("versions", {})
    yield ", ".join(f"{name} {version}" for name, version in versions.items())


def _figure(estimate: Estimate | None, scale: float, digits: int) -> str:
    return "" if estimate is None else f"{scale * estimate.value:.{digits}f}"
