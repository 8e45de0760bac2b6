"""edgeoe deploy"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeoe.cli.options import EXIT_CODES, JsonOption, next_step
from edgeoe.cli.reports import write_page
from edgeoe.cli.settings import takes_settings
from edgeoe.cli.stages import ExporterOption, checked_exporter
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
    out: Annotated[Path, typer.Option(help="Run directory to write, or to go on with.", show_default=False)],
    test: Annotated[Path, typer.Option(help="Test images: a folder per class.", show_default=False)],
    exporter: ExporterOption = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run with other settings.")] = False,
    json: JsonOption = None,
) -> int:
    """The whole line: compress, export, build and validate, for one target or several.

    A target that is not this machine ends in a bundle, with the lines that take it there. A student that is already
    there, made with the same settings, is kept. The exit code is the worst verdict's; 3 where nothing was judged yet.

    Example: [bold]edgeoe deploy --config edgeoe.toml --out runs/a --target host-cpu --test test/[/]
    """
    from edgeoe.pipeline import Judged, deploy
    from edgeoe.report.json import compress_json
    from edgeoe.report.terminal import bar, show_speed, show_validation
    from edgeoe.run import layout
    from edgeoe.run.directory import Run
    from edgeoe.targets.load import load_target

    profiles, chosen = [load_target(name) for name in settings.target], checked_exporter(exporter)

    def show(one: Judged | Bundled) -> None:
        if isinstance(one, Judged):
            show_validation(one.validation)

    reached = deploy(
        settings, out=out, targets=profiles, test=test, exporter=chosen, overwrite=overwrite, each=show, progress=bar
    )
    if not reached:  # one of torchrun's other processes
        return 0
    run = Run(out)
    compressed = run.read(layout.COMPRESS)
    show_speed(compressed)
    write_json(
        json,
        {
            "compress": compress_json(compressed, run.read(layout.FACTS)),
            "export": run.read(layout.EXPORT),
            "targets": {one.target.name: _record(one) for one in reached},
        },
    )
    write_page(run)
    named = dict(zip((profile.name for profile in profiles), settings.target, strict=True))
    _show_way_on(run, reached, test, named)
    return EXIT_CODES[worst(one.outcome for one in reached)]


def _record(one: Judged | Bundled) -> dict[str, object]:
    """What `--json` says of one target."""
    from edgeoe.pipeline import Judged
    from edgeoe.report.json import validation_json

    if isinstance(one, Judged):
        return validation_json(one.validation)
    return {"verdict": one.outcome, "not_measured": not_measured(one.differs), "bundle": one.bundle}


def _show_way_on(run: Run, reached: Sequence[Judged | Bundled], test: Path, named: Mapping[str, str]) -> None:
    """Print what to do on each device that is elsewhere, then the next step: about the worst that came out.

    named: what the user calls the profile of each target, a name or a file.
    """
    from edgeoe.cli.bundle import show_bundle
    from edgeoe.cli.next_steps import after_verdict, lines_for_device
    from edgeoe.pipeline import Bundled
    from edgeoe.report.terminal import say
    from edgeoe.run.layout import TargetFiles

    step, outcome = "", worst(one.outcome for one in reached)
    for one in sorted(reached, key=lambda one: isinstance(one, Bundled)):
        name = one.target.name
        if isinstance(one, Bundled):
            say(f"{name}: ", (f"inconclusive, {not_measured(one.differs)}", "yellow"))
            show_bundle(one.bundle)
            lines = lines_for_device(Path(one.bundle.path), run.path, name)
            for line in lines:
                say(f"  {line}")
            step = step or lines[0]
        elif one.outcome == outcome != "passed" and not step:
            again = f"edgeoe validate {quoted(run.path)} --target {quoted(named[name])} --test {quoted(test)}"
            step = after_verdict(run.path, named[name], one.validation, again=again)
    if not step:
        built = run.read(TargetFiles(reached[0].target.name).engine)
        step = f"copy {quoted(run.path / built.artifact)} to the device"
    next_step(step)
