"""Verdicts in GitHub Actions: annotations, the step summary, and the step's outputs.

Source: GitHub's "Workflow commands for GitHub Actions".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgeoe.records.comparison import Change, Comparison
from edgeoe.records.measurement import Outcome, Validation, worst
from edgeoe.report.markdown import markdown_of_comparisons, markdown_of_validation
from edgeoe.report.wording import accuracy_text, change_in_percent, check_text
from edgeoe.text import visible

__all__ = ["GitHub"]

_LEVELS = {"regressed": "error", "failed": "error", "inconclusive": "warning", "improved": "notice"}


class GitHub:
    """Report format "github": annotations on standard output, and Markdown in the step summary."""

    help = "Annotations and step summary of GitHub Actions."
    takes_file = False

    def write_validation(self, validation: Validation, path: Path | None) -> None:  # noqa: ARG002 - this format has no file
        target = validation.target.name
        for check in validation.verdict.checks:
            _annotate(check.outcome, f"{check.name} {check.outcome} on {target}", check_text(check))
        _write_page([validation.outcome], markdown_of_validation(validation))

    def write_comparisons(self, comparisons: Sequence[Comparison], path: Path | None) -> None:  # noqa: ARG002 - as above
        _annotate_comparisons(comparisons)
        _write_page([one.outcome for one in comparisons], markdown_of_comparisons(comparisons))


def _annotate_comparisons(comparisons: Sequence[Comparison]) -> None:
    for one in comparisons:
        rows: list[tuple[str, Change, str, str]] = [
            (row.quantity, row.change, f"{change_in_percent(row.ratio)}, {one.latency_from}", row.reason)
            for row in one.latency
        ]
        rows += [
            (row.subject, row.change, f"{accuracy_text(row)}, {one.accuracy_from}", row.reason) for row in one.accuracy
        ]
        for subject, change, text, reason in rows:
            _annotate(change, f"{subject} {change} on {one.target}", f"{text}. {reason}".strip())
        if not one.latency:
            _annotate("inconclusive", f"latency inconclusive on {one.target}", one.reason)


def _annotate(kind: str, title: str, text: str) -> None:
    level = _LEVELS.get(kind)
    if level:
        sys.stdout.write(f"::{level} title={_property(title)}::{_data(text)}\n")
        sys.stdout.flush()


def _data(text: str) -> str:
    return visible(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _write_page(outcomes: Iterable[Outcome], summary: str) -> None:
    for variable, text in (("GITHUB_STEP_SUMMARY", summary), ("GITHUB_OUTPUT", f"outcome={worst(outcomes)}\n")):
        path = os.environ.get(variable)
        if path:
            with Path(path).open("a", encoding="utf-8") as stream:
                stream.write(text)
