"""How the student of a budget was found: texts, and what the page shows of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeoe.records.budget import BudgetSearch, Limit
from edgeoe.records.compression import CompressRecord
from edgeoe.report.axis import Axis
from edgeoe.report.wording import from_text

__all__ = ["BudgetView", "budget_view", "cut_text", "fp32_text", "limit_texts", "time_text"]


def limit_texts(search: BudgetSearch) -> list[str]:
    """Teacher, student and limit for each limit: "p50_ms on pi5: teacher 1.09 (int8), student 0.65, limit 0.67"."""
    return [
        f"{row.limit.quantity} on {row.limit.target}: teacher {row.teacher:.4g} ({row.limit.precision}), "
        f"student {row.student:.4g}{'' if row.is_measured else ' by its latency table'}, limit {row.limit.limit:.4g}"
        + (f" ({from_text(row.limit)})" if row.limit.origin else "")
        for row in _limit_rows(search)
    ]


def cut_text(record: CompressRecord, search: BudgetSearch) -> str:
    """What was pruned: "27 % of the MACs kept, 7 blocks dropped"."""
    chosen = search.round_of(record.macs_kept)
    if chosen is None or record.macs_kept == 1:
        return "the teacher meets the budget: nothing is pruned"
    blocks = f", {chosen.dropped} block{'s' if chosen.dropped > 1 else ''} dropped" if chosen.dropped else ""
    return f"{100 * record.macs_kept:.1f} % of the MACs kept{blocks}"


def fp32_text(search: BudgetSearch) -> str:
    """What int8 leaves in fp32: "kept in fp32, and measured so: stem.0, head in int8-cpu"; empty if it is nothing."""
    layers = [f"{', '.join(layers)} in {variant}" for variant, layers in search.kept_fp32.items() if layers]
    return f"kept in fp32, and measured so: {'; '.join(layers)}" if layers else ""


def time_text(search: BudgetSearch) -> str:
    """What the search cost: "latency table 41 s, losses 32 s, 4 cuts tried 25 s"."""
    tried = f"{len(search.rounds)} cut{'s' if len(search.rounds) > 1 else ''} tried"
    return (
        f"latency table {search.table_seconds:.0f} s, losses {search.loss_seconds:.0f} s, "
        f"{tried} {search.search_seconds:.0f} s"
    )


@dataclass(frozen=True, slots=True)
class LimitRow:
    """Teacher and student beside a limit.

    is_measured: whether the student's figure was measured; else it is predicted by the table of another machine.
    axis: shows all three.
    """

    limit: Limit
    teacher: float
    student: float
    is_measured: bool
    axis: Axis


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One cut that was tried.

    figures: (predicted, measured) for each limit.
    """

    figures: tuple[tuple[float, float | None], ...]
    loss: float
    macs_kept: float
    dropped: int
    is_student: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A round in a chart: its place, and the height of what was predicted and measured."""

    x: float
    predicted: float
    measured: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The way to one limit, in pixels of a drawing of WIDTH x HEIGHT.

    line: the measured rounds as a staircase, "x,y x,y".
    limit_y: height of the limit.
    ticks: (height, value).
    """

    limit: Limit
    points: tuple[Point, ...]
    line: str
    limit_y: float
    ticks: tuple[tuple[float, float], ...]


WIDTH, HEIGHT, LEFT, RIGHT, EDGE = 640, 170, 60, 20, 14  # of a chart, its margins, and that above and below


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetView:
    """The section of the page on the budget."""

    limits: tuple[LimitRow, ...]
    rounds: tuple[RoundRow, ...]
    charts: tuple[Chart, ...]
    cut: str
    time: str
    fp32: str
    loss: float
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT


def budget_view(record: CompressRecord) -> BudgetView | None:
    """What the page shows of the budget of `record`; None if it was made to none."""
    search = record.budget
    if search is None:
        return None
    chosen = search.round_of(record.macs_kept)
    rounds = (
        RoundRow(
            figures=tuple(zip(one.predicted, one.measured, strict=True)),
            loss=one.loss,
            macs_kept=one.macs_kept,
            dropped=one.dropped,
            is_student=one is chosen,
        )
        for one in search.rounds
    )
    return BudgetView(
        limits=tuple(_limit_rows(search)),
        rounds=tuple(rounds),
        charts=tuple(_charts(search)),
        cut=cut_text(record, search),
        time=time_text(search),
        fp32=fp32_text(search),
        loss=search.loss,
    )


def _limit_rows(search: BudgetSearch) -> Iterator[LimitRow]:
    for at, (limit, teacher, student) in enumerate(zip(search.limits, search.teacher, search.student, strict=True)):
        is_measured = all(one.measured[at] is not None for one in search.rounds if one.macs_kept < 1)
        axis = Axis(0.0, 1.05 * max(teacher, student, limit.limit))
        yield LimitRow(limit, teacher, student, is_measured, axis)


def _charts(search: BudgetSearch) -> Iterator[Chart]:
    """A chart for each limit of which two rounds or more were measured."""
    for at, limit in enumerate(search.limits):
        figures = [(one.predicted[at], measured) for one in search.rounds if (measured := one.measured[at]) is not None]
        if len(figures) > 1:
            yield _chart(limit, figures)


def _chart(limit: Limit, figures: Sequence[tuple[float, float]]) -> Chart:
    values = [limit.limit, *(value for pair in figures for value in pair)]
    margin = 0.1 * (max(values) - min(values)) or 0.1 * limit.limit
    axis = Axis(min(values) - margin, max(values) + margin)
    step = (WIDTH - LEFT - RIGHT) / len(figures)

    def y(value: float) -> float:
        return EDGE + (HEIGHT - 2 * EDGE) * (1 - axis.at(value) / 100)

    points = tuple(
        Point(LEFT + step * (at + 0.5), y(predicted), y(measured)) for at, (predicted, measured) in enumerate(figures)
    )
    line = " ".join(
        f"{x:.1f},{point.measured:.1f}" for point in points for x in (point.x - step / 2, point.x + step / 2)
    )
    ticks = tuple((y(tick), tick) for tick in axis.ticks())
    return Chart(limit, points, line, y(limit.limit), ticks)
