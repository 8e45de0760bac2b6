"""A run as one page for people: no scripts, nothing fetched, so that it can be mailed, archived and opened anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeoe.measure.accuracy import accuracy_from_predictions
from edgeoe.measure.judge import UNLIMITED
from edgeoe.measure.result import Result, read_result
from edgeoe.measure.speed import SpeedSamples
from edgeoe.measure.statistics import nearest_rank
from edgeoe.measure.summary import speed_from_samples
from edgeoe.records.measurement import Accuracy, Check, Estimate, Outcome, Speed, Verdict, worst
from edgeoe.report.wording import speed_text
from edgeoe.run.directory import Run
from edgeoe.targets.profile import MeasureSettings

__all__ = ["Axis", "report_page", "write_report"]


def write_report(run: Run) -> Path:
    """Write the page of `run` into it: its path."""
    page = report_page(run)
    return run.write("report.html", lambda path: path.write_text(page, encoding="utf-8"))


def report_page(run: Run) -> str:
    """The page of `run`, as HTML: nothing that depends on when or where it is made.

    Raises RunError if a file that it shows was changed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = run.read_record("compress.json", made_by="compress")
    exported = run.read_record("export.json", made_by="export") if (run.path / "export.json").is_file() else None
    validated = sorted(path.parent.name for path in run.path.glob("targets/*/validation.json"))
    targets = [_target(run, name, made["counts"]) for name in validated]
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["figure"] = figure
    templates.filters["speed_text"] = speed_text
    return templates.get_template("page.html").render(
        name=run.path.resolve().name,
        outcome=worst(target.outcome for target in targets) if targets else None,
        made=made,
        few=_Few(tuple(zip(made["classes"], made["counts"], strict=True))),
        exported=exported,
        targets=targets,
        config=run.file("config.toml", made_by="compress").read_text(encoding="utf-8"),
        versions=run.described().get("versions", {}),
        share=Axis(0.0, 1.0),
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from low to high, as wide as its chart; low < high."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where `value` lies, in percent of the width; what lies beyond an end is at it."""
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self) -> list[float]:
        """Three to eight round numbers within the scale."""
        third = (self.high - self.low) / 3
        power = 10.0 ** math.floor(math.log10(third))
        step = next(factor * power for factor in (5, 2, 1) if factor * power <= third)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _Few:
    """The few samples, (class, number) each."""

    counts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)

    @property
    def most(self) -> int:
        return max(1, *(count for _, count in self.counts))


@dataclass(frozen=True, slots=True)
class _Judged:
    """A check, and a scale on which its interval and its limit can both be seen."""

    check: Check
    axis: Axis | None


@dataclass(frozen=True, slots=True)
class _Class:
    name: str
    few: int
    test: int
    recall: Estimate | None
    rare: bool


@dataclass(frozen=True, slots=True)
class _Process:
    """Percentiles of one process's calls, in milliseconds."""

    p5: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """How fast it ran. beyond: processes whose p99 the axis has no room for."""

    speed: Speed
    processes: tuple[_Process, ...]
    axis: Axis
    beyond: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What the page shows of one target. running: None where no speed was measured, and `not_measured` why."""

    outcome: Outcome
    judged: tuple[_Judged, ...]
    has_budget: bool
    noise: tuple[str, ...]
    notes: tuple[str, ...]
    drop: Estimate | None
    result: Result
    running: _Running | None
    not_measured: str
    accuracy: Accuracy | None
    classes: tuple[_Class, ...]


def _target(run: Run, name: str, counts: list[int]) -> _Target:
    record = run.read_record(f"targets/{name}/validation.json", made_by="validate")
    result = read_result(run.file(f"targets/{name}/result.json", made_by="validate"))
    checks = tuple(Check(**{**data, "measured": _estimate(data["measured"])}) for data in record["checks"])
    seen = result.predictions
    accuracy = None
    if seen is not None:
        accuracy = accuracy_from_predictions(seen.chosen, seen.labels, classes=len(result.classes), rare=result.rare)
    return _Target(
        outcome=Verdict(checks).outcome,
        judged=tuple(_Judged(check, _around(check)) for check in checks),
        has_budget=any(check.name not in UNLIMITED for check in checks),
        noise=tuple(record["noise"]),
        notes=tuple(record.get("notes", ())),
        drop=_estimate(record["intervals"]["drop"]),
        result=result,
        running=_running(result.speed, result.target.measure) if result.speed and record["latency_ms"] else None,
        not_measured=record.get("not_measured") or "",
        accuracy=accuracy,
        classes=_classes(result, accuracy, counts) if accuracy else (),
    )


def _running(samples: SpeedSamples, settings: MeasureSettings) -> _Running:
    processes = tuple(
        _Process(*(nearest_rank(np.asarray(calls), share) for share in (0.05, 0.50, 0.95, 0.99)))
        for calls in samples.calls_ms
    )
    fastest, slowest = min(one.p5 for one in processes), max(one.p95 for one in processes)
    room = 1.05 * max(slowest, float(np.median([one.p99 for one in processes])))
    return _Running(
        speed=speed_from_samples(samples, settings),
        processes=processes,
        axis=Axis(0.95 * fastest, room),
        beyond=sum(one.p99 > room for one in processes),
    )


def _classes(result: Result, accuracy: Accuracy, counts: list[int]) -> tuple[_Class, ...]:
    """From the rarest on."""
    rows = zip(result.classes, counts, accuracy.images_per_class, accuracy.recall_per_class, strict=True)
    made = [_Class(*row, rare=index in accuracy.rare_classes) for index, row in enumerate(rows)]
    return tuple(sorted(made, key=lambda row: row.few))


def _around(check: Check) -> Axis | None:
    """A scale with some room around the limit and what was measured; none where nothing was."""
    if check.measured is None or check.limit is None:
        return None
    ends = (check.measured.low, check.measured.value, check.measured.high, check.limit)
    low, high = (pick(end for end in ends if math.isfinite(end)) for pick in (min, max))
    room = 0.15 * (high - low) or 0.1 * abs(high) or 0.1
    return Axis(low - room, high + room)


def _estimate(data: Mapping[str, Any] | None) -> Estimate | None:
    """An estimate from JSON, where the end that an interval lacks is null."""
    if data is None:
        return None
    high = data["high"]
    return Estimate(data["value"], data["low"], math.inf if high is None else high)


def figure(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits, never as a power of ten; a question mark for infinity."""
    if not math.isfinite(value):
        return "?"
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, decimals)}f}"
