"""Reports of a command: the page of a run, and the formats that options select."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeoe.cli.options import RunArgument
from edgeoe.registry import REPORT_FORMATS
from edgeoe.report.formats import Reports, report_format

if TYPE_CHECKING:
    from edgeoe.records.measurement import Validation
    from edgeoe.run.directory import Run

__all__ = ["report_command", "show_and_write", "takes_reports", "write_page"]


def takes_reports(command: Callable[..., int]) -> Callable[..., int]:
    """Give `command(..., reports)` one option for every report format instead of `reports`."""
    parameters = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "reports"]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if report_format(name).takes_file else False,
            annotation=_option(name),
        )
        for name in REPORT_FORMATS
    ]

    def with_reports(**values: Any) -> int:
        options_given = {name: values.pop(name) for name in REPORT_FORMATS}
        files = {name: path if isinstance(path, Path) else None for name, path in options_given.items() if path}
        return command(reports=Reports(files), **values)

    with_reports.__name__, with_reports.__doc__ = command.__name__, command.__doc__
    with_reports.__signature__ = inspect.Signature([*parameters, *options])  # type: ignore[attr-defined]
    with_reports.__annotations__ = {p.name: p.annotation for p in (*parameters, *options)}
    return with_reports


def _option(name: str) -> Any:
    """The Typer annotation of one report format."""
    form = report_format(name)
    if form.takes_file:
        return Annotated[Path | None, typer.Option(f"--{name}", help=form.help, show_default=False)]
    return Annotated[bool, typer.Option(f"--{name}", help=form.help)]


def report_command(run: RunArgument) -> int:
    """Write the report of a run as one page, RUN/report.html; validate, collect and deploy write it, too.

    Example: [bold]edgeoe report runs/a[/]
    """
    from edgeoe.run.chain import require_verdict
    from edgeoe.run.directory import Run

    one = Run.open(run)
    for files in one.validated():
        require_verdict(one, files.name)
    write_page(one)
    return 0


def write_page(run: Run) -> None:
    """Write the page of `run`, and print its path."""
    from edgeoe.report.html import write_report
    from edgeoe.report.terminal import say

    say(f"report: {write_report(run)}")


def show_and_write(run: Run, validation: Validation, reports: Reports) -> None:
    """Write the selected reports, show the verdict, and write the page of `run`."""
    from edgeoe.report.terminal import show_validation

    reports.write_validation(validation)
    show_validation(validation)
    write_page(run)
