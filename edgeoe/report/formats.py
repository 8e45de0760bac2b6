"""The formats that verdicts and comparisons are written in: one file and one row each.

A format's name is its option: `--junit FILE`, `--github`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeoe.records.comparison import Comparison
from edgeoe.records.measurement import Validation
from edgeoe.registry import REPORT_FORMATS

__all__ = ["ReportFormat", "Reports", "report_format"]


class ReportFormat(Protocol):
    """A way to write a verdict or comparisons.

    help: of its option.
    takes_file: whether the option names a file; else it is a flag.
    """

    help: str
    takes_file: bool

    def write_validation(self, validation: Validation, path: Path | None) -> None:
        """Write `validation` to `path`. Raises ConfigError where it can't be written."""
        ...

    def write_comparisons(self, comparisons: Sequence[Comparison], path: Path | None) -> None:
        """Write `comparisons` to `path`. Raises ConfigError where it can't be written."""
        ...


def report_format(name: str) -> ReportFormat:
    """The format called `name`."""
    made: ReportFormat = REPORT_FORMATS.load(name)()
    return made


@dataclass(frozen=True, slots=True)
class Reports:
    """The reports that the user asked for: by format the file, None for a format without one."""

    files: Mapping[str, Path | None]

    def write_validation(self, validation: Validation) -> None:
        """Write each report of `validation`."""
        for name, path in self.files.items():
            report_format(name).write_validation(validation, path)

    def write_comparisons(self, comparisons: Sequence[Comparison]) -> None:
        """Write each report of `comparisons`."""
        for name, path in self.files.items():
            report_format(name).write_comparisons(comparisons, path)
