"""Terminal output of a comparison."""

from __future__ import annotations

from rich.text import Text

from edgeoe.records.comparison import Change, Comparison
from edgeoe.report.terminal import COLOUR, out, say, table
from edgeoe.report.wording import accuracy_text, change_in_percent, origin_text

__all__ = ["show_comparison"]

_COLOUR: dict[Change, str] = {"regressed": "red", "improved": "green", "no worse": "green", "inconclusive": "yellow"}


def show_comparison(comparison: Comparison) -> None:
    """Print each quantity, the reasons for inconclusive ones, and the outcome."""
    how = "interleaved, fresh processes" if comparison.how == "interleaved" else "from stored results"
    rows = [
        (
            change.quantity,
            f"{change.base_ms:.3f} ms",
            f"{change.new_ms:.3f} ms",
            change_in_percent(change.ratio),
            str(change.n),
            Text(change.change, _COLOUR[change.change]),
        )
        for change in comparison.latency
    ]
    if rows:
        title = f"{comparison.target}: {comparison.base} -> {comparison.new}, {how}"
        out.print(table(title, ("", "base", "new", "change [95 %]", "n", "result"), rows))
    for row in comparison.accuracy:
        say("  ", (f"{row.change:<12}", _COLOUR[row.change]), f" {row.subject}: {accuracy_text(row)}")
    reasons = [f"{change.quantity}: {change.reason}" for change in comparison.latency if change.reason]
    reasons += [f"{row.subject}: {row.reason}" for row in comparison.accuracy if row.reason]
    for text in filter(None, (*reasons, *comparison.notes, origin_text(comparison))):
        say((f"  {text}", "dim"))
    reason = f": {comparison.reason}" if comparison.reason and not (reasons and rows) else ""
    say(f"{comparison.target}: ", (comparison.outcome, f"bold {COLOUR[comparison.outcome]}"), reason)
