"""Terminal output of latency tables."""

from __future__ import annotations

from edgeoe.pruning.names import labels
from edgeoe.records.latency_table import FP32_TEACHER, TEACHER, LatencyTable, PartSaving, TableReport
from edgeoe.report.terminal import out, say, table

__all__ = ["latencies_text", "show_table"]


def show_table(report: TableReport) -> None:
    """Print what the parts of a teacher save."""
    batch = f", batch {report.batch}" if report.batch > 1 else ""
    say((report.target, "bold"), f": the teacher takes {report.teacher_ms:.3f} ms in {report.precision}{batch}")
    if report.kept_fp32:
        say(f"kept in fp32, and measured so: {', '.join(report.kept_fp32)}")
    label_of = labels(part.names for part in report.parts)
    rows = [(label_of[part.names], *_figures(part)) for part in report.parts]
    if rows:
        out.print(table("Savings of each part", ("part", "width", "ms", "latency"), rows))
    else:
        say(("nothing can be pruned", "yellow"))


def _figures(part: PartSaving) -> tuple[str, str, str]:
    width = "dropped" if part.remaining is None else f"{part.units} -> {part.remaining}"
    return width, f"{part.saved_ms:.4f}", f"{100 * part.share:.1f} %"


def latencies_text(table: LatencyTable) -> str:
    """What a table says of the teacher, as one line."""
    target, latencies_ms = table.target, table.latencies_ms
    return (
        f"{target.name}: latencies of {len(latencies_ms)} networks; the teacher takes {latencies_ms[TEACHER]:.3f} ms "
        f"in {target.precision}, {latencies_ms[FP32_TEACHER]:.3f} ms in fp32"
    )
