"""The table of the architecture benchmark: a CSV row for each model, and their summary in Markdown."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from pathlib import Path

from architecture_families import MAX_PARAMS, SOURCES
from architecture_stages import KEEP, Facts

COLUMNS = (
    *("source", "family", "name", "params_m", "input", "outcome", "reason", "groups", "groups_refused"),
    *("macs_kept", "params_kept", "exporter", "max_rel_error", "spread"),
    *("p50_teacher_ms", "p50_student_ms", "speedup", "n", "inspect_seconds", "seconds"),
)


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: Facts) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def figures_of(rows: list[dict[str, str]]) -> dict[str, float]:
    """Counts of outcomes and the median speed-up of one tool's rows: figures of the history."""
    count = Counter(outcome_kind(row) for row in rows)
    speedups = [float(row["speedup"]) for row in rows if row["speedup"]]
    median = {"median_speedup": statistics.median(speedups)} if speedups else {}
    return {"models": len(rows), **{kind: count[kind] for kind in ("pass", "refused", "failed")}, **median}


def outcome_kind(row: dict[str, str]) -> str:
    return row["outcome"] if row["outcome"] in ("pass", "refused") else "failed"


def summary(tables: dict[str, list[dict[str, str]]], left_out: list[str]) -> str:
    """Markdown: pass rates, speed, refusals, failures, and a line for each model. tables: rows of each tool."""
    lines = ["| tool | source | models | pass | refused | failed | pass rate |", "|---|---|---|---|---|---|---|"]
    for tool, rows in tables.items():
        for source in SOURCES:
            own = [outcome_kind(row) for row in rows if row["source"] == source]
            if own:
                count = Counter(own)
                figures = " | ".join(str(count[key]) for key in ("pass", "refused", "failed"))
                lines.append(f"| {tool} | {source} | {len(own)} | {figures} | {100 * count['pass'] / len(own):.0f} % |")
    if left_out:
        lines += ["", f"Left out, over {MAX_PARAMS / 1e6:g} M parameters: {', '.join(left_out)}."]
    for tool, rows in tables.items():
        gains = [float(row["speedup"]) for row in rows if row["speedup"]]
        if gains:
            lines += [
                "",
                f"{tool}: {sum(gain > 1 for gain in gains)} of {len(gains)} students are faster than their teachers; "
                f"speed-up at {KEEP:g} of the MACs: median {statistics.median(gains):.2f}, {min(gains):.2f} to "
                f"{max(gains):.2f}.",
            ]
    for tool, rows in tables.items():
        for title, chosen in (
            ("refused", [row for row in rows if row["outcome"] == "refused"]),
            ("failed", [row for row in rows if row["outcome"] not in ("pass", "refused")]),
            ("passed, with a remark", [row for row in rows if row["outcome"] == "pass" and row["reason"]]),
        ):
            if chosen:
                lines += ["", f"{tool}, {title}:", ""]
                lines += [
                    f"- {row['source']} {row['family']} ({row['name']}), {row['outcome']}: {row['reason']}"
                    for row in chosen
                ]
    alike = [
        row["name"] for tool, rows in tables.items() for row in rows if row["spread"] and float(row["spread"]) < 1e-3
    ]
    if alike:
        names = ", ".join(dict.fromkeys(alike))
        lines += ["", f"Answer all images nearly alike (spread under 1e-3), so that parity says little: {names}."]
    baseline = [row for tool, rows in tables.items() if tool.startswith("torch-pruning") for row in rows]
    other = {(row["source"], row["name"]): row["outcome"] for row in baseline}
    shown: tuple[str, ...] = ("source", "family", "name", "params_m", "outcome", "macs_kept", "params_kept", "exporter")
    shown += ("max_rel_error", "p50_teacher_ms", "p50_student_ms", "speedup", "n", "seconds")
    for tool, rows in tables.items():
        if tool.startswith("edgeoe"):
            lines += ["", f"| {' | '.join(shown)} | torch-pruning |", f"|{'---|' * (len(shown) + 1)}"]
            for row in sorted(rows, key=lambda row: (row["source"], row["family"])):
                cells = [*(row[column] for column in shown), other.get((row["source"], row["name"]), "")]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
