"""edgeoe samples"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeoe.cli.options import ConfigOption, JsonOption, next_step, write_json

__all__ = ["command"]


def command(
    folder: Annotated[Path, typer.Argument(help="A folder per class.", show_default=False)],
    list: Annotated[  # noqa: A002 - the option's name
        Path | None,
        typer.Option(help="Text file of paths that narrows the folder.", show_default=False),
    ] = None,
    config: ConfigOption = None,  # noqa: ARG001 - its callback sets the defaults
    json: JsonOption = None,
) -> int:
    """Look at few samples: images per class, imbalance, unreadable and duplicate images.

    Exit code 2 if an image is unreadable.

    Example: [bold]edgeoe samples few/[/]
    """
    from edgeoe.data.inspection import inspect_samples
    from edgeoe.data.samples import find_samples
    from edgeoe.report.terminal import bar, out, say, table

    found = find_samples(folder, list)
    report = inspect_samples(found, progress=bar)
    write_json(json, report)
    most = max(*report.counts, 1)
    rows = [
        (name, str(count), "█" * max(round(30 * count / most), 1 if count else 0))
        for name, count in zip(report.classes, report.counts, strict=True)
    ]
    made = table(f"{sum(report.counts)} images, {len(report.classes)} classes", ("class", "images", ""), rows)
    made.columns[2].justify = "left"
    out.print(made)
    say(f"imbalance ratio (largest class to smallest that has images): {report.imbalance_ratio:g}")
    for name in report.empty:
        say(("no images:", "yellow"), f" class {name}")
    for path in report.unreadable:
        say(("unreadable:", "red"), f" {path}")
    for group in report.duplicates:
        say(("same pixels:", "yellow"), f" {', '.join(group)}")
    if report.unreadable:
        next_step(f"remove or replace the unreadable images, then edgeoe samples {folder}")
        return 2
    next_step(f"edgeoe compress --samples {folder} ...")
    return 0
