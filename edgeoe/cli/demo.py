"""edgeoe demo"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeoe.cli.options import JsonOption, next_step
from edgeoe.errors import quoted
from edgeoe.report.text_file import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from edgeoe.demo.draws import Gain

__all__ = ["command"]


def command(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo"),
    seed: Annotated[
        int, typer.Option(help="Random seed of the first draw; the others count up from it.", min=0, max=10**9)
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
    json: JsonOption = None,
) -> int:
    """Run the whole pipeline on handwritten digits, in about two minutes and offline.

    Trains a small teacher, draws 50 imbalanced samples five times, compresses to 30 % of the MACs without and
    with OE, deploys the teacher and the first draw's students to this machine's CPU, and shows the gain from OE.

    Example: [bold]edgeoe demo --out runs/demo[/]
    """
    from edgeoe.demo.draws import gains, statement
    from edgeoe.demo.line import run_demo
    from edgeoe.report.html import write_report
    from edgeoe.report.json import validation_json
    from edgeoe.report.terminal import bar, say
    from edgeoe.report.terminal import out as console
    from edgeoe.run import layout

    demo = run_demo(out, seed=seed, overwrite=overwrite, progress=bar)
    networks: list[dict[str, Any]] = []
    for network in demo.networks:
        write_report(network.run)
        record = network.run.read(layout.COMPRESS)
        networks.append(
            {
                "name": network.name,
                "run": str(network.run.path),
                "macs": record.macs,
                "params": record.params,
                "validation": validation_json(network.validation),
            }
        )
    gains_by_metric, draws = gains(demo.draws), len(demo.draws)
    write_json(json, {"networks": networks, "draws": demo.draws, "gains": gains_by_metric})
    console.print(_comparison(gains_by_metric, networks, draws=draws))
    say((statement(gains_by_metric["top-1"].difference, draws=draws), "bold"))
    noise = [reason for row in networks for reason in row["validation"]["noise"]]
    if noise:
        say(("noise", "yellow"), f": latencies are uncertain: {noise[0]}")
    say("host-cpu: ", ", ".join(f"{row['name']} {row['validation']['verdict']}" for row in networks))
    for row in networks:
        say(f"{row['run']}: report.html, student.onnx, targets/host-cpu/model.onnx")
    say(f"{out}/images: the digits, and the letters that are the OOD images")
    next_step(f"edgeoe validate {quoted(networks[-1]['run'])} --target host-cpu --test {quoted(out / 'images/test')}")
    return 0


def _comparison(gains_by_metric: Mapping[str, Gain], networks: Sequence[dict[str, Any]], *, draws: int) -> Table:
    """Table of mean accuracies over draws with the gains from OE, and of the costs of the first draw's networks."""
    from edgeoe.report.terminal import table

    accuracies = [
        (
            name,
            *(f"{100 * value:.1f} %" for value in (gain.teacher, gain.without_oe, gain.with_oe)),
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * end for end in astuple(gain.difference))),
        )
        for name, gain in gains_by_metric.items()
    ]
    costs: dict[str, Callable[[dict[str, Any]], str]] = {
        "MACs": lambda row: f"{row['macs'] / 1e6:.2f} M",
        "parameters": lambda row: f"{row['params'] / 1e3:.1f} k",
        "file size": lambda row: f"{row['validation']['size_bytes'] / 1e3:.0f} kB",
        "p50 latency": lambda row: f"{row['validation']['latency_ms']['p50']:.3f} ms",
    }
    title = f"Handwritten digits, 50 labelled samples, imbalance 20: means of {draws} draws"
    view = table(title, ("", *(row["name"] for row in networks), "gain from OE [95 %]"), accuracies)
    view.caption, view.caption_justify = "MACs to latency: the first draw's networks, on this machine's CPU", "left"
    view.add_section()
    for name, cost in costs.items():
        view.add_row(name, *(cost(row) for row in networks), "")
    return view
