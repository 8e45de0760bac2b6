"""The tables of the OE benchmark: CSV rows, and means over seeds in Markdown."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oe_runs import OFF, PARTS, Spec, with_oe

COLUMNS = ("top1", "rare3", "most_frequent", "worst")


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def spec_of(row: dict[str, str]) -> Spec:
    return Spec(
        row["method"],
        row["kind"],
        int(row["n"]),
        row["oe"] == "True",
        int(row["seed"]),
        float(row["keep_macs"]),
        int(row["steps"]),
    )


def append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def markdown(rows: list[dict[str, str]]) -> str:
    """A table of mean and standard deviation over seeds, and the tables of ablations."""
    groups: dict[tuple[Any, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in ("keep_macs", "steps", "method", "n", "kind", "oe"))].append(row)
    bases = sorted({row["method"].split(",oe.")[0].split(":oe.")[0] for row in rows})
    plain = {key: own for key, own in groups.items() if "oe." not in key[2]}
    lines = [
        "| keep | steps | method | N | samples | OE | top-1 % | rare-3 % | most frequent % | worst % | CPU s | n |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, own in sorted(
        plain.items(), key=lambda item: (*map(float, item[0][:2]), item[0][2], int(item[0][3]), *item[0][4:])
    ):
        keep, steps, method, n, kind, oe = key
        figures = " | ".join(spread(float(row[column]) for row in own) for column in COLUMNS)
        seconds = statistics.median(float(row["cpu_s"]) for row in own)
        state = "on" if oe == "True" else "off"
        lines.append(
            f"| {keep} | {steps} | {method} | {n} | {kind} | {state} | {figures} | {seconds:.0f} | {len(own)} |"
        )
    for base in bases:
        table = []
        for key, own in groups.items():
            label = ablation_label(key[2], base)
            if label:
                figures = " | ".join(spread(float(row[column]) for row in own) for column in COLUMNS)
                table.append(f"| {label} | {key[3]} | {figures} | {len(own)} |")
        if table:
            lines += ["", f"Ablation of OE with {base}, lt100:", ""]
            lines += [
                "| OE | N | top-1 % | rare-3 % | most frequent % | worst % | n |",
                "|---|---|---|---|---|---|---|",
            ]
            lines += sorted(table)
    return "\n".join(lines) + "\n"


def means(rows: Iterable[dict[str, str]]) -> dict[str, float]:
    """Top-1 and rare recall in percent, as means over seeds: figures of the history."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        state = "OE" if row["oe"] == "True" else "no OE"
        for column in ("top1", "rare3"):
            name = f"{row['method']}, {row['kind']}, n {row['n']}, keep {row['keep_macs']}, {state}: {column} %"
            values[name].append(float(row[column]))
    return {name: statistics.mean(percents) for name, percents in values.items()}


def spread(values: Iterable[float]) -> str:
    values = list(values)
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def ablation_label(method: str, base: str) -> str | None:
    for part, (alone, without) in PARTS.items():
        if method == with_oe(base, {**OFF, **alone}):
            return f"{part} alone"
        if method == with_oe(base, without):
            return f"all but {part}"
    return None
