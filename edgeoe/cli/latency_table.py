"""edgeoe latency-table"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from edgeoe.cli.options import JsonOption, next_step
from edgeoe.cli.settings import takes_settings
from edgeoe.errors import ConfigError, quoted
from edgeoe.files import path_in_report
from edgeoe.report.text_file import write_json
from edgeoe.settings import CompressSettings

__all__ = ["command"]


@takes_settings
def command(
    *,
    context: typer.Context,  # noqa: ARG001 - takes_settings reads it
    settings: CompressSettings,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Bundle to write instead, which measures on the device: .tar.gz, .tar.zst or .tar.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = None,
) -> int:
    """Measure what each part of a teacher costs on --target, for compress with a budget; options as for compress.

    For a device elsewhere, -o writes a bundle that measures there; collect reads its table.json.

    Example: [bold]edgeoe latency-table --config edgeoe.toml --target jetson-orin-nano -o table.tar.gz[/]
    """
    from edgeoe.pipeline import bundle_table, measure_parts
    from edgeoe.report.latency_table import show_table
    from edgeoe.report.terminal import bar, say
    from edgeoe.targets.load import load_target

    if len(settings.target) > 1:
        raise ConfigError(f"--target: a latency table is of one device. Got {' and '.join(settings.target)}.")
    (name,) = settings.target
    target = load_target(name)
    if out is None:
        report = measure_parts(settings, target, progress=bar)
        write_json(json, report)
        show_table(report)
        next_step(f"edgeoe compress with the same options, --target {quoted(name)} --latency-ms MS --out RUN")
        return 0
    record = bundle_table(settings, target, out=out, progress=bar)
    write_json(json, replace(record, path=path_in_report(record.path)))
    say(f"{record.path}: {record.size_bytes / 1e6:.3f} MB, {len(record.files)} files, sha256 {record.sha256[:12]}")
    _show_way(out, target.name)
    return 0


def _show_way(archive: Path, target: str) -> None:
    """Print the commands that take a bundle to its device and the table back."""
    from edgeoe.cli.next_steps import lines_for_table
    from edgeoe.report.terminal import say

    say("to measure on the device, DEVICE being what ssh calls it:")
    *lines, last = lines_for_table(archive, target)
    for line in lines:
        say(f"  {line}")
    next_step(last)
