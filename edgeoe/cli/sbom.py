"""edgeoe sbom"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeoe.cli.options import RunArgument

__all__ = ["command"]


def command(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write; default: standard output.", show_default=False),
    ] = None,
) -> int:
    """Write what a run consists of, its files with hashes and the packages that made it, as a CycloneDX SBOM.

    A bundle has its own in it, sbom.cdx.json.

    Example: [bold]edgeoe sbom runs/a -o sbom.cdx.json[/]
    """
    from edgeoe.report.text_file import write_text
    from edgeoe.run.directory import Run
    from edgeoe.stages.sbom import sbom_of_run

    text = sbom_of_run(Run.open(run))
    if out is None:
        sys.stdout.write(text)
    else:
        write_text("--out", out, text)
    return 0
