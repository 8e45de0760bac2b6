"""A run as one HTML page without scripts or external files, so that it can be mailed, archived and opened anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeoe.errors import RunError
from edgeoe.measure.judge import UNLIMITED
from edgeoe.measure.statistics import nearest_rank
from edgeoe.records.compression import CompressRecord
from edgeoe.records.graphs import ExportRecord
from edgeoe.records.measurement import Accuracy, Check, Estimate, Speed, Validation, worst
from edgeoe.records.result import Result, SpeedSamples
from edgeoe.report.axis import Axis, figure
from edgeoe.report.budget import budget_view
from edgeoe.report.wording import (
    TOO_FEW_PROCESSES,
    check_text,
    from_text,
    has_intervals,
    shown_speed,
    speed_text,
    with_end,
)
from edgeoe.run import layout
from edgeoe.run.directory import Run, writes_run
from edgeoe.run.facts import RunFacts
from edgeoe.text import visible_lines

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["RunReport", "read_report", "report_page", "validation_page", "write_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """Everything that the page of a run shows.

    name: of the run.
    exported: None before `export`.
    validated: validation and raw result of each target.
    config: text of config.toml.
    versions: of the packages that created the run.
    """

    name: str
    facts: RunFacts
    compressed: CompressRecord
    exported: ExportRecord | None
    validated: tuple[tuple[Validation, Result], ...]
    config: str
    versions: dict[str, str]


def read_report(run: Run) -> RunReport:
    """Read what the page of `run` shows. Raises RunError if a file was changed, or is not of this run."""
    facts = run.read(layout.FACTS)
    validated = tuple((run.read(files.validation), run.read(files.result)) for files in run.validated())
    for validation, _ in validated:
        if validation.classes != facts.classes:
            raise RunError(
                f"{run.path}: the validation on {validation.target.name} is of other classes than facts.json. "
                "Validate again."
            )
    return RunReport(
        name=run.path.resolve().name,
        facts=facts,
        compressed=run.read(layout.COMPRESS),
        exported=run.read(layout.EXPORT) if run.has(layout.EXPORT) else None,
        validated=validated,
        config=run.file(layout.CONFIG).read_text(encoding="utf-8", errors="backslashreplace"),
        versions=run.versions,
    )


@writes_run
def write_report(run: Run) -> Path:
    """Write the page of `run` into the run. Returns its path."""
    page = report_page(read_report(run))
    return run.write(layout.REPORT, lambda path: path.write_text(page, encoding="utf-8"))


def report_page(report: RunReport) -> str:
    """Render the page of a run as HTML, independent of time and place."""
    facts = report.facts
    return _template("page.html").render(
        name=report.name,
        outcome=worst(validation.outcome for validation, _ in report.validated) if report.validated else None,
        made=report.compressed,
        budget=budget_view(report.compressed),
        random_weights=facts.random_weights,
        samples=_Samples(tuple(zip(facts.classes, facts.counts, strict=True))),
        exported=report.exported,
        targets=[_target(validation, result, facts.counts) for validation, result in report.validated],
        config=report.config,
        versions=report.versions,
        share=Axis(0.0, 1.0),
    )


def validation_page(validation: Validation) -> str:
    """Render the page of one validation as HTML: main figures and checks."""
    measurement = validation.measurement
    speed, accuracy = shown_speed(measurement.speed) if measurement.speed else None, measurement.accuracy
    figures = [
        *([("p50", speed.latency.p50, 1.0, "ms"), ("p99", speed.latency.p99, 1.0, "ms")] if speed else []),
        *([("top-1", accuracy.top1, 100.0, "%")] if accuracy else []),
    ]
    tiles = [
        (
            name,
            f"{figure(factor * one.value)} {unit}",
            f"[{figure(factor * one.low)}, {figure(factor * one.high)}]" if one.low < one.high else "",
        )
        for name, one, factor, unit in figures
    ]
    random = ["Random weights: the teacher is untrained."] if measurement.random_weights else []
    notes = [*random, *measurement.notes, *filter(None, [measurement.not_measured])]
    return _template("validation.html").render(
        validation=validation, notes=notes, tiles=[*tiles, ("size", f"{figure(measurement.size_bytes / 1e6)} MB", "")]
    )


def _template(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible_lines(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"figure": figure, "speed_text": speed_text, "check_text": check_text, "from_text": from_text}
    templates.filters["has_intervals"] = has_intervals
    templates.globals["too_few_processes"] = TOO_FEW_PROCESSES
    return templates.get_template(name)


@dataclass(frozen=True, slots=True)
class _Samples:
    """The labelled samples.

    counts: (class, number) for each class.
    """

    counts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)

    @property
    def most(self) -> int:
        return max(1, *(count for _, count in self.counts))


@dataclass(frozen=True, slots=True)
class _Judged:
    """A check, and an axis that shows both its interval and its limit."""

    check: Check
    axis: Axis | None


@dataclass(frozen=True, slots=True)
class _Class:
    name: str
    samples: int
    test: int
    recall: Estimate | None
    rare: bool


@dataclass(frozen=True, slots=True)
class _Process:
    """Latency percentiles of one process, in milliseconds."""

    p5: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _SpeedSection:
    """The section on speed.

    beyond: number of processes whose p99 lies beyond the axis.
    """

    speed: Speed
    processes: tuple[_Process, ...]
    axis: Axis
    beyond: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """The section of one target.

    running: None if no speed was measured.
    """

    validation: Validation
    result: Result
    judged: tuple[_Judged, ...]
    has_budget: bool
    running: _SpeedSection | None
    classes: tuple[_Class, ...]


def _target(validation: Validation, result: Result, counts: Sequence[int]) -> _Target:
    checks, measurement = [_with_end(check) for check in validation.verdict.checks], validation.measurement
    speed, samples = measurement.speed, result.speed
    return _Target(
        validation=validation,
        result=result,
        judged=tuple(_Judged(check, _around(check)) for check in checks),
        has_budget=any(check.name not in UNLIMITED for check in checks),
        running=_running(shown_speed(speed), samples) if speed and samples else None,
        classes=_classes(validation.classes, measurement.accuracy, counts) if measurement.accuracy else (),
    )


def _running(speed: Speed, samples: SpeedSamples) -> _SpeedSection:
    processes = tuple(
        _Process(*(nearest_rank(np.asarray(calls), share) for share in (0.05, 0.50, 0.95, 0.99)))
        for calls in samples.calls_ms
    )
    fastest, slowest = min(one.p5 for one in processes), max(one.p95 for one in processes)
    end = 1.05 * max(slowest, float(np.median([one.p99 for one in processes])))
    return _SpeedSection(
        speed=speed,
        processes=processes,
        axis=Axis(0.95 * fastest, end),
        beyond=sum(one.p99 > end for one in processes),
    )


def _classes(classes: Sequence[str], accuracy: Accuracy, counts: Sequence[int]) -> tuple[_Class, ...]:
    """The rows of the class table, rarest first."""
    rows = zip(classes, counts, accuracy.images_per_class, accuracy.recall_per_class, strict=True)
    listed = [_Class(*row, rare=index in accuracy.rare_classes) for index, row in enumerate(rows)]
    return tuple(sorted(listed, key=lambda row: row.samples))


def _with_end(check: Check) -> Check:
    return replace(check, measured=with_end(check.measured)) if check.measured else check


def _around(check: Check) -> Axis | None:
    """An axis with a margin around the limit and the measured interval; None if either is missing."""
    if check.measured is None or check.limit is None:
        return None
    ends = (check.measured.low, check.measured.value, check.measured.high, check.limit)
    low, high = (pick(end for end in ends if math.isfinite(end)) for pick in (min, max))
    margin = 0.15 * (high - low) or 0.1 * abs(high) or 0.1
    return Axis(low - margin, high + margin)
