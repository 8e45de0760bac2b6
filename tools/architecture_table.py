"""The table of the architecture benchmark: a CSV row for each network, and their summary in Markdown."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from architecture_families import MAX_PARAMS

Row = Mapping[str, str]
COLUMNS = (
    *("source", "family", "name", "params_m", "input", "outcome", "stage", "reason", "prepared"),
    *("groups", "groups_refused", "prunable", "method", "macs_kept", "params_kept", "edgeoe_says"),
    *("exporter", "max_rel_error", "int8_agreement", "spread"),
    *("p50_teacher_ms", "p50_student_ms", "speedup", "speedup_int8", "n"),
    *("inspect_seconds", "seconds", "cpu_seconds", "peak_mb", "commit"),
)
OUTCOMES = ("pass", "refused", "failed")
_SHOWN = (
    *("source", "family", "name", "params_m", "outcome", "stage", "prunable", "groups", "groups_refused", "method"),
    *("macs_kept", "params_kept", "exporter", "max_rel_error", "int8_agreement"),
    *("p50_teacher_ms", "p50_student_ms", "speedup", "speedup_int8", "seconds", "cpu_seconds", "peak_mb"),
)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV; of several for one network the last."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = {(row["source"], row["name"]): row for row in csv.DictReader(file)}
    return [*rows.values()]


def append(path: Path, row: Mapping[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def figures_of(rows: Sequence[Row]) -> dict[str, float]:
    """Counts of outcomes, the share of faster students and the median speed-up of one tool: figures of the history."""
    count, speedups = Counter(row["outcome"] for row in rows), _speedups(rows)
    figures: dict[str, float] = {"networks": len(rows), **{outcome: count[outcome] for outcome in OUTCOMES}}
    if speedups:
        figures["faster"] = sum(one > 1 for one in speedups) / len(speedups)
        figures["median_speedup"] = statistics.median(speedups)
    return figures


def summary(tables: Mapping[str, Sequence[Row]], left_out: Sequence[str]) -> str:
    """Markdown: pass rates, speed, refusals, failures, and a line for each network.

    tables: the rows of each tool.
    left_out: families that are too large.
    """
    lines = [*_rates(tables)]
    if left_out:
        lines += ["", f"Left out, over {MAX_PARAMS / 1e6:g} M parameters: {', '.join(left_out)}."]
    for tool, rows in tables.items():
        lines += [*_speed(tool, rows), *_commits(tool, rows)]
    for tool, rows in tables.items():
        lines += [*_reasons(tool, rows)]
    if alike := [row["name"] for rows in tables.values() for row in rows if row["spread"] and _alike(row)]:
        names = ", ".join(dict.fromkeys(alike))
        lines += ["", f"Answer all images nearly alike (spread under 1e-3), so that parity says little: {names}."]
    for tool, rows in tables.items():
        if tool.startswith("edgeoe"):
            baseline = [row for other in tables if other.startswith("torch-pruning") for row in tables[other]]
            lines += [*_networks(rows, baseline)]
    return "\n".join(lines) + "\n"


def _rates(tables: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    yield "| tool | source | networks | pass | refused | failed | pass rate |"
    yield "|---|---|---|---|---|---|---|"
    for tool, rows in tables.items():
        sources = [*dict.fromkeys(row["source"] for row in rows)]
        for source in [*sources, *(["all"] if len(sources) > 1 else [])]:
            count = Counter(row["outcome"] for row in rows if source in (row["source"], "all"))
            figures = " | ".join(str(count[outcome]) for outcome in OUTCOMES)
            total = count.total()
            yield f"| {tool} | {source} | {total} | {figures} | {100 * count['pass'] / total:.0f} % |"


def _speed(tool: str, rows: Sequence[Row]) -> Iterator[str]:
    if gains := _speedups(rows):
        faster, int8 = sum(gain > 1 for gain in gains), _speedups(rows, "speedup_int8")
        yield ""
        yield (
            f"{tool}: {faster} of {len(gains)} students ({100 * faster / len(gains):.0f} %) are faster than their "
            f"teachers; speed-up: median {statistics.median(gains):.2f}, {min(gains):.2f} to {max(gains):.2f}"
            + (f"; of int8 students against fp32 teachers: median {statistics.median(int8):.2f}." if int8 else ".")
        )
        slower = [f"{row['name']} {float(row['speedup']):.2f}" for row in rows if row["speedup"] and not _faster(row)]
        if slower:
            yield f"Not faster: {', '.join(slower)}."


def _commits(tool: str, rows: Sequence[Row]) -> Iterator[str]:
    counts = Counter(row["commit"] or "unknown" for row in rows)
    seconds = sum(float(row["seconds"] or 0) for row in rows)
    if counts:
        yield ""
        yield (
            f"{tool}: commit {', '.join(f'{name} ({n} networks)' for name, n in counts.items())}; "
            f"{seconds / 3600:.1f} hours, {seconds / len(rows):.0f} s a network."
        )


def _reasons(tool: str, rows: Sequence[Row]) -> Iterator[str]:
    for title, outcome in (("refused", "refused"), ("failed", "failed"), ("passed, with a remark", "pass")):
        chosen = [row for row in rows if row["outcome"] == outcome and (outcome != "pass" or row["reason"])]
        if chosen:
            yield from ("", f"{tool}, {title}:", "")
        for row in chosen:
            where = "" if outcome == "pass" else f", in {row['stage']}"
            yield f"- {row['source']} {row['family']} ({row['name']}){where}: {row['reason']}"


def _networks(rows: Sequence[Row], baseline: Sequence[Row]) -> Iterator[str]:
    other = {(row["source"], row["name"]): row["outcome"] for row in baseline}
    yield ""
    yield f"| {' | '.join(_SHOWN)} | torch-pruning |"
    yield f"|{'---|' * (len(_SHOWN) + 1)}"
    for row in sorted(rows, key=lambda row: (row["source"], row["family"])):
        cells = [*(row[column] for column in _SHOWN), other.get((row["source"], row["name"]), "")]
        yield f"| {' | '.join(cells)} |"


def _speedups(rows: Sequence[Row], column: str = "speedup") -> list[float]:
    return [float(row[column]) for row in rows if row[column]]


def _faster(row: Row) -> bool:
    return float(row["speedup"]) > 1


def _alike(row: Row) -> bool:
    return float(row["spread"]) < 1e-3
