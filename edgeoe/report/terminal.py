"""Terminal output: progress bars on stderr, tables on stdout."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from math import isfinite
from time import perf_counter
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from edgeoe.interruption import work_begins
from edgeoe.measure.judge import UNLIMITED
from edgeoe.measure.quantity import quantity
from edgeoe.pruning.names import by_reason, shortened
from edgeoe.records.compression import CompressRecord
from edgeoe.records.graphs import GraphRecord
from edgeoe.records.measurement import Estimate, Measurement, Outcome, Speed, Validation, Verdict
from edgeoe.report.budget import cut_text, fp32_text, limit_texts, time_text
from edgeoe.report.wording import TOO_FEW_PROCESSES, check_text, has_intervals, shown_speed, speed_text
from edgeoe.text import visible, visible_lines

__all__ = [
    "COLOUR",
    "bar",
    "err",
    "is_quiet",
    "out",
    "percent",
    "say",
    "set_quiet",
    "show_budget",
    "show_layers",
    "show_left_alone",
    "show_speed",
    "show_validation",
    "shows_bars",
    "table",
]


class _Console(Console):
    """A console on which text of any origin is shown and does not act.

    It tolerates a closed pipe (`| head`): the command still completes and exits with its own code.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible_lines(segment.text), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; an error in writing names the output."""
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            raise
        except OSError as reason:
            name = "standard error" if self.stderr else "standard output"
            raise OSError(reason.errno, reason.strerror, reason.filename or name) from reason

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(OSError, ValueError):  # a replacement for the file may have no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


# Names and messages may contain [red] or :car:, so Rich's markup and emoji are off and styles are passed separately.
out = _Console(highlight=False, markup=False, emoji=False)
err = _Console(stderr=True, highlight=False, markup=False, emoji=False)
COLOUR: dict[Outcome, str] = {"passed": "green", "failed": "red", "inconclusive": "yellow"}


_quiet = False
_log = logging.getLogger(__name__)


def set_quiet(quiet: bool) -> None:
    """Set whether to show only results and errors: no progress, no hints."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether only results and errors are shown."""
    return _quiet


def say(*parts: str | tuple[str, str], to: Console | None = None) -> None:
    """Print `parts` as one line.

    parts: each a text or (text, style).
    to: console; default: stdout.
    """
    text = Text.assemble(*(visible(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts))
    _log.debug("%s", text.plain)
    (to or out).print(text, soft_wrap=True)


def shows_bars() -> bool:
    """Whether a progress bar can be seen here: in a terminal, or in a notebook that has ipywidgets to move it."""
    return find_spec("ipywidgets") is not None if err.is_jupyter else err.is_terminal


_bars: list[Progress] = []  # the live display, while a bar is open
_open = 0


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar with the remaining time, then a line with the elapsed time.

    The bar ends full even if the work finishes before `total`. Several may be open at once, as on several devices.
    """
    work_begins()
    started = perf_counter()
    with _display() as progress:
        task = progress.add_task(visible(title), total=total)
        yield lambda: progress.advance(task)
        steps = next(one.completed for one in progress.tasks if one.id == task)
        progress.update(task, total=steps)
    _log.debug("%s: %d in %.1f s", title, steps, perf_counter() - started)


@contextmanager
def _display() -> Iterator[Progress]:
    """The display that all bars share: it starts with the first, and stops when none is open."""
    global _open
    if not _open:
        columns = (
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        _bars[:] = [Progress(*columns, console=err, refresh_per_second=4, disable=_quiet)]
        _bars[0].start()
    _open += 1
    progress = _bars[0]
    try:
        yield progress
    finally:
        _open -= 1
        if not _open:
            progress.stop()


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """A table with text in the first column and figures in the others."""
    result = Table(title=visible(title), title_justify="left", title_style="bold")
    for position, name in enumerate(header):
        result.add_column(visible(name), justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        result.add_row(*(visible(cell) if isinstance(cell, str) else cell for cell in row))
    return result


def percent(estimate: Estimate | None) -> str:
    """A fraction as a percentage with its 95 % interval."""
    if estimate is None:
        return "no test images"
    return f"{100 * estimate.value:.1f} %  [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def milliseconds(estimate: Estimate) -> str:
    """A latency with its 95 % interval."""
    return interval(estimate, "ms", digits=3)


def interval(estimate: Estimate, unit: str, *, digits: int) -> str:
    """A figure with its 95 % interval, if it has one."""
    if estimate.low == estimate.high:
        return f"{estimate.value:.{digits}f} {unit}"
    high = f"{estimate.high:.{digits}f}" if isfinite(estimate.high) else "?"
    return f"{estimate.value:.{digits}f} {unit}  [{estimate.low:.{digits}f}, {high}]"


def show_left_alone(refused: Mapping[str, str]) -> None:
    """Print what is not pruned, one line for each reason.

    refused: reasons by name.
    """
    for reason, names in by_reason(refused).items():
        say((f"  left alone: {shortened(names)}: {reason}", "dim"))


def show_speed(compressed: CompressRecord) -> None:
    """Print the speed of a student relative to its teacher, and the notes on it."""
    for speed in compressed.speed:
        style = {"faster": "green", None: "dim"}.get(speed.outcome, "yellow")
        say(("the student is ", style), (speed_text(speed), style))
    for note in compressed.notes:
        say(("note", "yellow"), f": {note}")


def show_budget(compressed: CompressRecord) -> None:
    """Print teacher and student beside each limit, what was pruned for it, and what the search cost."""
    search = compressed.budget
    if search is None:
        return
    for text in limit_texts(search):
        say(text)
    say(f"{cut_text(compressed, search)}; {time_text(search)}")
    if layers := fp32_text(search):
        say(layers)


def show_layers(graph: GraphRecord, *, most: int = 12) -> None:
    """Print the sensitivities of the most sensitive layers of an int8 graph."""
    rows = [
        (
            layer.layer,
            f"{100 * layer.error:.2f} %",
            f"{100 * layer.drop:.1f} %",
            "fp32" if layer.layer in graph.kept_fp32 else "",
        )
        for layer in graph.layers[:most]
    ]
    hidden = len(graph.layers) - len(rows)
    omission = f", without the {hidden} least sensitive" if hidden else ""
    title = f"{graph.precision}: each layer alone in int8{omission}"
    out.print(table(title, ("layer", "error of logits", "images that change class", "kept"), rows))


def show_validation(validation: Validation) -> None:
    """Print accuracy and latency of one artifact, each check, and the verdict."""
    _show_measurement(validation.target.name, validation.classes, validation.measurement)
    _show_verdict(validation.target.name, validation.verdict)


def _show_measurement(target: str, classes: Sequence[str], m: Measurement) -> None:
    size = ("size", f"{m.size_bytes / 1e6:.3f} MB")
    rows = [*_accuracy_rows(classes, m), *(_speed_rows(m.speed) if m.speed else ()), size]
    images = sum(m.accuracy.images_per_class) if m.accuracy else 0
    out.print(table(f"{target}, {images or 'no'} test images", ("", "measured [95 %]"), rows))
    if m.not_measured:
        say(("latency", "yellow"), f" {m.not_measured}")
    if m.speed and not has_intervals(m.speed):
        say(("note", "yellow"), f": {TOO_FEW_PROCESSES}")
    for reason in m.speed.noise if m.speed else ():
        say(("noise", "yellow"), f": {reason}")
    for note in m.notes:
        say(("note", "yellow"), f": {note}")
    if m.random_weights:
        say(("random weights", "yellow"), ": the teacher is untrained, so accuracy and recall are meaningless")


def _speed_rows(speed: Speed) -> list[tuple[str, str]]:
    speed = shown_speed(speed)
    latency = speed.latency
    return [
        ("p50", milliseconds(latency.p50)),
        ("p90", milliseconds(latency.p90)),
        (f"p99 (n = {latency.n} in {latency.processes} processes, batch {latency.batch})", milliseconds(latency.p99)),
        *(
            (f"throughput, batch {batch}", interval(rate, "images/s", digits=0))
            for batch, rate in speed.throughput_ips.items()
        ),
        ("loading", milliseconds(speed.load_ms)),
        ("first call", milliseconds(speed.first_ms)),
        ("peak memory", interval(speed.peak_memory_mb, "MB", digits=1)),
        *(_probed_row(name, estimate) for name, estimate in speed.probed.items()),
    ]


def _probed_row(name: str, estimate: Estimate) -> tuple[str, str]:
    probe = quantity(name).probe
    title, unit = (probe.title, probe.unit) if probe else (name, "")
    return title, interval(estimate, unit, digits=3)


def _accuracy_rows(classes: Sequence[str], m: Measurement) -> list[tuple[str, str]]:
    accuracy = m.accuracy
    if accuracy is None:
        return []
    rare = ", ".join(classes[k] for k in accuracy.rare_classes)
    return [
        ("top-1", percent(accuracy.top1)),
        *([("drop in top-1 from the teacher", percent(m.drop))] if m.drop else []),
        ("mean recall", percent(accuracy.mean_recall)),
        (f"rare recall ({rare})", percent(accuracy.rare_recall)),
        ("worst recall", percent(accuracy.worst_recall)),
        *((f"  {name}", percent(part)) for name, part in zip(classes, accuracy.recall_per_class, strict=True)),
    ]


def _show_verdict(target: str, verdict: Verdict) -> None:
    for check in verdict.checks:
        say("  ", (f"{check.outcome:<12}", COLOUR[check.outcome]), f" {check_text(check)}")
    if all(check.name in UNLIMITED for check in verdict.checks):
        say((f"  no budget in the profile of {target}: only the build itself was judged", "dim"))
    say(f"{target}: ", (verdict.outcome, f"bold {COLOUR[verdict.outcome]}"))
