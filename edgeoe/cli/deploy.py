"""edgeoe deploy"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeoe.cli.options import EXIT_CODES, JsonOption, next_step, takes_settings, write_json
from edgeoe.cli.reports import write_page
from edgeoe.cli.stages import ExporterOption, checked_exporter
from edgeoe.errors import quoted
from edgeoe.records import worst
from edgeoe.settings import CompressSettings

__all__ = ["command"]


@takes_settings
def command(
    *,
    context: typer.Context,  # noqa: ARG001 - takes_settings reads it
    settings: CompressSettings,
    out: Annotated[Path, typer.Option(help="Run directory to write, or to go on with.", show_default=False)],
    test: Annotated[Path, typer.Option(help="Test images: a folder per class.", show_default=False)],
    exporter: ExporterOption = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run with other settings.")] = False,
    json: JsonOption = None,
) -> int:
    """The whole line: compress, export, build and validate, for one target or several.

    A student that is already there, made with the same settings, is kept. The exit code is the worst verdict's.

    Example: [bold]edgeoe deploy --config edgeoe.toml --out runs/a --target host-cpu --test test/[/]
    """
    from edgeoe.data.samples import find_samples, find_test
    from edgeoe.pipeline import deploy
    from edgeoe.report.terminal import bar, show_measurement, show_speed, show_verdict
    from edgeoe.run import Run
    from edgeoe.targets import load_target

    profiles, chosen = [load_target(name) for name in settings.target], checked_exporter(exporter)
    few = find_samples(settings.samples, settings.list, classes=settings.classes, none_allowed=settings.oe)
    find_test(test, few.classes)  # before an hour of compressing
    records, outcomes = {}, []
    for profile, measurement, verdict in deploy(
        settings, out=out, targets=profiles, test=test, exporter=chosen, overwrite=overwrite, progress=bar
    ):
        record = Run(out).read_record(f"targets/{profile.name}/validation.json", made_by="validate")
        records[profile.name] = record
        show_measurement(profile.name, record["classes"], measurement)
        show_verdict(profile.name, verdict)
        outcomes.append(verdict.outcome)
    if not records:  # one of torchrun's other processes
        return 0
    run = Run(out)
    show_speed(run.read_record("compress.json", made_by="compress"))
    write_json(
        json,
        {
            "compress": run.read_record("compress.json", made_by="compress"),
            "export": run.read_record("export.json", made_by="export"),
            "targets": records,
        },
    )
    write_page(run)
    built = run.read_record(f"targets/{profiles[0].name}/engine.json", made_by="build")
    code = EXIT_CODES[worst(outcomes)]
    next_step(
        f"copy {quoted(out / built['artifact'])} to the device"
        if not code
        else f"edgeoe targets show {quoted(settings.target[0])}"
    )
    return code
