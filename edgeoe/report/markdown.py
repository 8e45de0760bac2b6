"""Markdown for a pull request: the outcome, a row for each quantity, and collapsed measurement details."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeoe.records.comparison import Change, Comparison
from edgeoe.records.measurement import Outcome, Validation, worst
from edgeoe.report.text_file import write_text
from edgeoe.report.wording import accuracy_text, change_in_percent, check_text, origin_text
from edgeoe.text import markdown_code, markdown_text

__all__ = ["MARKER", "Markdown", "markdown_of_comparisons", "markdown_of_validation"]

MARKER = "<!-- edgeoe -->"  # identifies the comment that a bot updates
_SIGNS: dict[Change | Outcome, str] = {
    "regressed": "❌ regressed",
    "improved": "🚀 improved",
    "no worse": "✅ no worse",
    "inconclusive": "❔ inconclusive",
    "failed": "❌ failed",
    "passed": "✅ passed",
}
_HEADER = ("target", "quantity", "base", "new", "change [95 %]", "allowed", "p", "n", "result")


class Markdown:
    """Report format "markdown"."""

    help = "Write a table for a pull request here."
    takes_file = True

    def write_validation(self, validation: Validation, path: Path | None) -> None:
        write_text("--markdown", path, markdown_of_validation(validation))

    def write_comparisons(self, comparisons: Sequence[Comparison], path: Path | None) -> None:
        write_text("--markdown", path, markdown_of_comparisons(comparisons))


def markdown_of_comparisons(comparisons: Sequence[Comparison]) -> str:
    """A comparison of all targets in one table."""
    outcome = worst(one.outcome for one in comparisons)
    targets = ", ".join(markdown_text(one.target) for one in comparisons)
    lines = [MARKER, f"**edgeoe: {_SIGNS[outcome]}** on {targets}", ""]
    lines += _table(_HEADER, [row for one in comparisons for row in _rows(one)])
    for one in comparisons:
        texts = [text for text in (origin_text(one), one.reason, *one.notes) if text]
        lines += [f"- {markdown_text(one.target)}: {markdown_text(text)}" for text in texts]
    lines += ["", "<details><summary>How it was measured</summary>", ""]
    for one in comparisons:
        how = "interleaved, in pairs of fresh processes" if one.how == "interleaved" else "from results stored earlier"
        target, sides = markdown_text(one.target), f"{markdown_code(one.base)} and {markdown_code(one.new)}"
        lines.append(f"{target}: {sides} {how}, {one.seconds:.0f} s.")
        lines += _environment(one.environment)
    return "\n".join([*lines, "", "</details>", ""])


def markdown_of_validation(validation: Validation) -> str:
    """A validation, with a row for each check."""
    measurement, verdict = validation.measurement, validation.verdict
    speed = measurement.speed
    lines = [MARKER, f"**edgeoe: {_SIGNS[verdict.outcome]}** on {markdown_text(validation.target.name)}", ""]
    rows = [(_SIGNS[check.outcome], check_text(check)) for check in verdict.checks]
    lines += _table(("result", "check"), rows)
    lines += [f"- noise: {markdown_text(reason)}" for reason in (speed.noise if speed else ())]
    lines += [f"- note: {markdown_text(note)}" for note in measurement.notes]
    lines += ["", "<details><summary>How it was measured</summary>", ""]
    if speed:
        latency = speed.latency
        lines.append(f"{latency.n} calls in {latency.processes} processes, batch {latency.batch}.")
    else:
        lines.append(f"Latency was {markdown_text(measurement.not_measured)}.")
    return "\n".join([*lines, *_environment(measurement.environment), "", "</details>", ""])


def _rows(one: Comparison) -> Iterable[tuple[str, ...]]:
    for change in one.latency:
        yield (
            one.target,
            change.quantity,
            f"{change.base_ms:.3f} ms",
            f"{change.new_ms:.3f} ms",
            change_in_percent(change.ratio),
            f"+{100 * change.tolerance:g} %",
            f"{change.p_value:.3g}",
            str(change.n),
            _SIGNS[change.change],
        )
    for row in one.accuracy:
        allowed = f"-{100 * row.tolerance:g} points"
        figures = (accuracy_text(row), allowed, f"{row.p_value:.3g}", str(row.images))
        yield (one.target, row.subject, "", "", *figures, _SIGNS[row.change])
    if not one.latency:
        yield (one.target, "latency", "", "", "", "", "", "", _SIGNS["inconclusive"])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *([markdown_text(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _environment(environment: Mapping[str, Any]) -> list[str]:
    facts = [markdown_text(f"{key} {value}") for key, value in environment.items() if key != "cpu_flags"]
    return ["", "; ".join(facts) + "."] if facts else []
