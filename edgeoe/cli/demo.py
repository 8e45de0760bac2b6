"""edgeoe demo"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeoe.cli.options import JsonOption, next_step, write_json
from edgeoe.errors import quoted

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["command"]


def command(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
    json: JsonOption = None,
) -> int:
    """The whole line on handwritten digits, in about a minute and without a network.

    Trains a small teacher, draws ten imbalanced samples a class, compresses to half the MACs without and
    with OE, exports, builds for this machine's CPU, and compares all three.

    Example: [bold]edgeoe demo --out runs/demo[/]
    """
    from edgeoe.demo.line import run_demo
    from edgeoe.report.html import write_report
    from edgeoe.report.terminal import bar, percent, say
    from edgeoe.report.terminal import out as console

    rows: list[dict[str, Any]] = []
    for shown in run_demo(out, seed=seed, overwrite=overwrite, progress=bar):
        record = shown.run.read_record("compress.json", made_by="demo")
        rows.append(
            {"name": shown.name, "run": str(shown.run.path), "macs": record["macs"], "params": record["params"]}
        )
        rows[-1] |= {"validation": shown.run.read_record("targets/host-cpu/validation.json", made_by="demo")}
        write_report(shown.run)
        accuracy = shown.measurement.accuracy
        say(f"{shown.name}: top-1 {percent(accuracy.top1 if accuracy else None)} [95 %]")
    write_json(json, rows)
    console.print(_comparison(rows))
    for row in rows:
        say(f"{row['run']}: report.html, student.onnx, targets/host-cpu/model.onnx")
    say(f"{out}/images: the digits, and the photograph patches that served as OOD")
    next_step(
        f"edgeoe validate {quoted(out / 'student-with-oe')} --target host-cpu --test {quoted(out / 'images/test')}"
    )
    return 0


def _comparison(rows: list[dict[str, Any]]) -> Table:
    """The networks side by side."""
    from edgeoe.report.terminal import table

    rare = ", ".join(rows[0]["validation"]["rare_classes"])
    figures: dict[str, Callable[[dict[str, Any]], str]] = {
        "top-1": lambda row: f"{100 * row['validation']['top1']:.1f} %",
        f"recall of the rarest ({rare})": lambda row: f"{100 * row['validation']['rare_recall']:.1f} %",
        "worst recall": lambda row: f"{100 * row['validation']['worst_recall']:.1f} %",
        "MACs": lambda row: f"{row['macs'] / 1e6:.2f} M",
        "parameters": lambda row: f"{row['params'] / 1e3:.1f} k",
        "file size": lambda row: f"{row['validation']['size_bytes'] / 1e3:.0f} kB",
        "p50 latency": lambda row: f"{row['validation']['latency_ms']['p50']:.3f} ms",
        "p99 latency": lambda row: f"{row['validation']['latency_ms']['p99']:.3f} ms",
        "verdict": lambda row: str(row["validation"]["verdict"]),
    }
    cells = [(name, *(figure(row) for row in rows)) for name, figure in figures.items()]
    return table("Handwritten digits, 10 few samples a class, imbalance 31", ("", *(r["name"] for r in rows)), cells)
