"""edgeoe deploy"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeoe.cli.options import EXIT_CODES, JsonOption, next_step
from edgeoe.cli.reports import write_page
from edgeoe.cli.settings import takes_settings
from edgeoe.cli.stages import ExporterOption, parse_exporter
from edgeoe.errors import quoted
from edgeoe.records.measurement import worst
from edgeoe.report.text_file import write_json
from edgeoe.settings import CompressSettings
from edgeoe.targets.here import not_measured

if TYPE_CHECKING:
    from edgeoe.pipeline import Bundled, Judged
    from edgeoe.run.directory import Run

__all__ = ["command"]


@takes_settings
def command(
    *,
    context: typer.Context,  # noqa: ARG001 - takes_settings reads it
    settings: CompressSettings,
    out: Annotated[Path, typer.Option(help="Run directory to write or to continue.", show_default=False)],
    test: Annotated[Path, typer.Option(help="Test images: a folder per class.", show_default=False)],
    exporter: ExporterOption = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that has other settings.")] = False,
    json: JsonOption = None,
) -> int:
    """Run the whole pipeline, compress, export, build and validate, for one target or several.

    A target that is not this machine gets a bundle, with the commands that take it there. An existing student with the
    same settings is kept. The exit code is that of the worst verdict; 3 if a target is not judged yet.

    Example: [bold]edgeoe deploy --config edgeoe.toml --out runs/a --target host-cpu --test test/[/]
    """
    from edgeoe.pipeline import Judged, deploy
    from edgeoe.report.json import compress_json
    from edgeoe.report.terminal import bar, show_speed, show_validation
    from edgeoe.run import layout
    from edgeoe.run.directory import Run
    from edgeoe.targets.load import load_target

    profiles, exporter_choice = [load_target(name) for name in settings.target], parse_exporter(exporter)

    def show(result: Judged | Bundled) -> None:
        if isinstance(result, Judged):
            show_validation(result.validation)

    results = deploy(
        settings,
        out=out,
        targets=profiles,
        test=test,
        exporter=exporter_choice,
        overwrite=overwrite,
        each=show,
        progress=bar,
    )
    if not results:  # another process of torchrun
        return 0
    run = Run(out)
    compressed = run.read(layout.COMPRESS)
    show_speed(compressed)
    write_json(
        json,
        {
            "compress": compress_json(compressed, run.read(layout.FACTS)),
            "export": run.read(layout.EXPORT),
            "targets": {result.target.name: _record(result) for result in results},
        },
    )
    write_page(run)
    profile_names = dict(zip((profile.name for profile in profiles), settings.target, strict=True))
    _show_next_steps(run, results, test, profile_names)
    return EXIT_CODES[worst(result.outcome for result in results)]


def _record(result: Judged | Bundled) -> dict[str, object]:
    """The record of one target for `--json`."""
    from edgeoe.pipeline import Judged
    from edgeoe.report.json import validation_json

    if isinstance(result, Judged):
        return validation_json(result.validation)
    return {"verdict": result.outcome, "not_measured": not_measured(result.differs), "bundle": result.bundle}


def _show_next_steps(
    run: Run, results: Sequence[Judged | Bundled], test: Path, profile_names: Mapping[str, str]
) -> None:
    """Print the commands for each device that is another machine, then the next step after the worst outcome.

    profile_names: the user's name or file of each target's profile, by name of the target.
    """
    from edgeoe.cli.bundle import show_bundle
    from edgeoe.cli.next_steps import after_verdict, lines_for_device
    from edgeoe.pipeline import Bundled
    from edgeoe.report.terminal import say
    from edgeoe.run.layout import TargetFiles

    step, outcome = "", worst(result.outcome for result in results)
    for result in sorted(results, key=lambda result: isinstance(result, Bundled)):
        name = result.target.name
        if isinstance(result, Bundled):
            say(f"{name}: ", (f"inconclusive, {not_measured(result.differs)}", "yellow"))
            show_bundle(result.bundle)
            lines = lines_for_device(Path(result.bundle.path), run.path, name)
            for line in lines:
                say(f"  {line}")
            step = step or lines[0]
        elif result.outcome == outcome != "passed" and not step:
            again = f"edgeoe validate {quoted(run.path)} --target {quoted(profile_names[name])} --test {quoted(test)}"
            step = after_verdict(run.path, profile_names[name], result.validation, again=again)
    if not step:
        engine = run.read(TargetFiles(results[0].target.name).engine)
        step = f"copy {quoted(run.path / engine.artifact)} to the device"
    next_step(step)
