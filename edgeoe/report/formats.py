"""Report formats for verdicts and comparisons: one module and one registry row each.

The name of a format is its option: `--junit FILE`, `--github`.
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
    """A format that verdicts and comparisons can be written in.

    help: help text of its option.
    takes_file: whether the option takes a file; otherwise it is a flag.
    """

    help: str
    takes_file: bool

    def write_validation(self, validation: Validation, path: Path | None) -> None:
        """Write `validation` to `path`. Raises ConfigError if it can't be written."""
        ...

    def write_comparisons(self, comparisons: Sequence[Comparison], path: Path | None) -> None:
        """Write `comparisons` to `path`. Raises ConfigError if it can't be written."""
        ...


def report_format(name: str) -> ReportFormat:
    """The format called `name`."""
    report: ReportFormat = REPORT_FORMATS.load(name)()
    return report


@dataclass(frozen=True, slots=True)
class Reports:
    """The requested reports.

    files: path by format; None for a format without a file.
    """

    files: Mapping[str, Path | None]

    def write_validation(self, validation: Validation) -> None:
        """Write each report of `validation`."""
        for name, path in self.files.items():
            report_format(name).write_validation(validation, path)

    def write_comparisons(self, comparisons: Sequence[Comparison]) -> None:
        """Write each report of `comparisons`."""
        for name, path in self.files.items():
            report_format(name).write_comparisons(comparisons, path)
