"""The terminal: progress bars on stderr, tables on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from edgeoe.models.names import by_reason, shortened
from edgeoe.records import Check, Estimate, GraphRecord, Measurement, Outcome, Verdict

__all__ = [
    "bar",
    "err",
    "out",
    "percent",
    "show_layers",
    "show_left_alone",
    "show_measurement",
    "show_verdict",
    "table",
]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
_COLOUR: dict[Outcome, str] = {"passed": "green", "failed": "red", "inconclusive": "yellow"}


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar with the time left; it leaves a line with the time taken."""
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, refresh_per_second=4) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are figures."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for position, name in enumerate(header):
        made.add_column(name, justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def percent(estimate: Estimate | None) -> str:
    """A fraction as a percentage with its 95 % interval."""
    if estimate is None:
        return "no test images"
    return f"{100 * estimate.value:.1f} %  [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]".replace("[", r"\[")


def milliseconds(estimate: Estimate) -> str:
    """A latency with its 95 % interval."""
    high = f"{estimate.high:.3f}" if isfinite(estimate.high) else "?: too few calls"
    return rf"{estimate.value:.3f} ms  \[{estimate.low:.3f}, {high}]"


def show_left_alone(refused: Mapping[str, str]) -> None:
    """Print what stays as it is, {name: why}: a line for each reason."""
    for reason, names in by_reason(refused).items():
        out.print(f"  [dim]left alone: {shortened(names)}: {escape(reason)}[/]", soft_wrap=True)


def show_layers(graph: GraphRecord, *, most: int = 12) -> None:
    """Print what the dearest layers cost in int8."""
    rows = [
        (
            cost.layer,
            f"{100 * cost.error:.2f} %",
            f"{100 * cost.drop:.1f} %",
            "fp32" if cost.layer in graph.kept_fp32 else "",
        )
        for cost in graph.layers[:most]
    ]
    left = len(graph.layers) - len(rows)
    title = f"{graph.precision}: each layer alone in int8" + (f", the {left} cheapest left out" if left else "")
    out.print(table(title, ("layer", "error of logits", "images of another class", "stays"), rows))


def show_measurement(target: str, classes: Sequence[str], m: Measurement) -> None:
    """Print accuracy and latency of one artifact."""
    accuracy, latency = m.accuracy, m.latency
    rare = ", ".join(classes[k] for k in accuracy.rare_classes)
    rows = [
        ("top-1", percent(accuracy.top1)),
        ("mean recall", percent(accuracy.mean_recall)),
        (f"rare recall ({rare})", percent(accuracy.rare_recall)),
        ("worst recall", percent(accuracy.worst_recall)),
        *((f"  {name}", percent(part)) for name, part in zip(classes, accuracy.recall_per_class, strict=True)),
        ("p50", milliseconds(latency.p50)),
        ("p90", milliseconds(latency.p90)),
        (f"p99 (n = {latency.n}, batch {latency.batch})", milliseconds(latency.p99)),
        ("size", f"{m.size_bytes / 1e6:.3f} MB"),
    ]
    out.print(table(f"{target}, {sum(accuracy.images_per_class)} test images", ("", r"measured \[95 %]"), rows))
    if m.random_weights:
        out.print(
            "[yellow]random weights[/]: the teacher never learned, accuracy and recall say nothing", soft_wrap=True
        )


def show_verdict(target: str, verdict: Verdict) -> None:
    """Print each check and the verdict."""
    for check in verdict.checks:
        colour = _COLOUR[check.outcome]
        out.print(f"  [{colour}]{check.outcome:<12}[/] {_check(check)}")
    if len(verdict.checks) == 1:
        out.print(f"  [dim]no budget in the profile of {target}: only the build itself was judged[/]")
    out.print(f"{target}: [bold {_COLOUR[verdict.outcome]}]{verdict.outcome}[/]")


def _check(check: Check) -> str:
    if check.measured is None:
        return f"{check.name} {check.sense} {check.limit:g}: {check.reason}"
    interval = ""
    if check.measured.low < check.measured.high:
        interval = rf" \[{check.measured.low:.4g}, {check.measured.high:.4g}]"
    reason = f" ({check.reason})" if check.reason else ""
    return f"{check.name} {check.measured.value:.4g}{interval}, {check.sense} {check.limit:g}{reason}"
