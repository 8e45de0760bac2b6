"""A comparison on the terminal."""

from __future__ import annotations

from rich.markup import escape

from edgeoe.records import Change, Comparison
from edgeoe.report.terminal import COLOUR, out, table
from edgeoe.report.wording import accuracy_text, change_in_percent

__all__ = ["show_comparison"]

_COLOUR: dict[Change, str] = {"regressed": "red", "improved": "green", "no worse": "green", "inconclusive": "yellow"}


def show_comparison(comparison: Comparison) -> None:
    """Print each quantity, why it could not be told where it could not, and the outcome."""
    how = "in turns, fresh processes" if comparison.how == "interleaved" else "from stored results"
    rows = [
        (
            change.quantity,
            f"{change.base_ms:.3f} ms",
            f"{change.new_ms:.3f} ms",
            escape(change_in_percent(change.ratio)),
            str(change.n),
            f"[{_COLOUR[change.change]}]{change.change}[/]",
        )
        for change in comparison.latency
    ]
    if rows:
        title = escape(f"{comparison.target}: {comparison.base} -> {comparison.new}, {how}")
        out.print(table(title, ("", "base", "new", r"change \[95 %]", "n", "result"), rows))
    for row in comparison.accuracy:
        told = f"[{_COLOUR[row.change]}]{row.change}[/]"
        out.print(f"  {told:<12} {escape(row.subject)}: {escape(accuracy_text(row))}", soft_wrap=True)
    reasons = [f"{change.quantity}: {change.reason}" for change in comparison.latency if change.reason]
    reasons += [f"{row.subject}: {row.reason}" for row in comparison.accuracy if row.reason]
    for text in (*reasons, *comparison.notes):
        out.print(f"  [dim]{escape(text)}[/]", soft_wrap=True)
    why = f": {escape(comparison.reason)}" if comparison.reason and not (reasons and rows) else ""
    out.print(f"{comparison.target}: [bold {COLOUR[comparison.outcome]}]{comparison.outcome}[/]{why}", soft_wrap=True)
