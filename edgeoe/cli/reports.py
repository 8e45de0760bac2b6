"""What a command writes beside its answer: the page of a run, JUnit XML, Markdown, GitHub's annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeoe.cli.options import RunArgument, write_json
from edgeoe.errors import ConfigError
from edgeoe.files import write_atomic
from edgeoe.records.comparison import Comparison
from edgeoe.records.measurement import Measurement, Verdict

if TYPE_CHECKING:
    from edgeoe.run.directory import Run

__all__ = [
    "GithubOption",
    "JunitOption",
    "MarkdownOption",
    "report_command",
    "tell_verdict",
    "write_comparison_reports",
    "write_page",
]

JunitOption = Annotated[Path | None, typer.Option(help="Write JUnit XML here.", show_default=False)]
MarkdownOption = Annotated[Path | None, typer.Option(help="Write a table for a pull request here.", show_default=False)]
GithubOption = Annotated[bool, typer.Option("--github", help="Annotations and step summary of GitHub Actions.")]


def report_command(run: RunArgument) -> int:
    """Write all that is known of a run as one page, RUN/report.html; validate, collect and deploy do so themselves.

    Example: [bold]edgeoe report runs/a[/]
    """
    from edgeoe.run.directory import Run

    write_page(Run.open(run))
    return 0


def write_page(run: Run) -> None:
    """Write the page of `run`, and say where."""
    from edgeoe.report.html import write_report
    from edgeoe.report.terminal import say

    say(f"report: {write_report(run)}")


def tell_verdict(
    run: Run,
    target: str,
    measurement: Measurement,
    verdict: Verdict,
    *,
    json: Path | None,
    junit: Path | None,
    markdown: Path | None,
    github: bool,
) -> None:
    """Write what was asked for of a verdict that `run` holds, show it, and write the run's page."""
    from edgeoe.report.github import annotate_verdict
    from edgeoe.report.junit import junit_of_verdict
    from edgeoe.report.markdown import markdown_of_verdict
    from edgeoe.report.terminal import show_measurement, show_verdict

    record = run.read_record(f"targets/{target}/validation.json", made_by="validate")
    table = markdown_of_verdict(target, record, verdict)
    write_json(json, record)
    _write("--junit", junit, junit_of_verdict(target, record, verdict))
    _write("--markdown", markdown, table)
    if github:
        annotate_verdict(target, verdict, summary=table)
    show_measurement(target, record["classes"], measurement)
    show_verdict(target, verdict)
    write_page(run)


def write_comparison_reports(
    comparisons: Sequence[Comparison], *, junit: Path | None, markdown: Path | None, github: bool
) -> None:
    """Write what was asked for of comparisons."""
    from edgeoe.report.github import annotate_comparisons
    from edgeoe.report.junit import junit_of_comparisons
    from edgeoe.report.markdown import markdown_of_comparisons

    table = markdown_of_comparisons(comparisons)
    _write("--junit", junit, junit_of_comparisons(comparisons))
    _write("--markdown", markdown, table)
    if github:
        annotate_comparisons(comparisons, summary=table)


def _write(option: str, path: Path | None, text: str) -> None:
    if path is None:
        return
    try:
        write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as reason:
        raise ConfigError(f"{option} {path}: can't be written: {reason.strerror}.") from None
