"""edgeoe deploy"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeoe.cli.devices import DevicesOption, with_devices
from edgeoe.cli.options import EXIT_CODES, JsonOption, next_step
from edgeoe.cli.reports import write_page
from edgeoe.cli.settings import takes_settings
from edgeoe.cli.stages import ExporterOption, parse_exporter
from edgeoe.errors import quoted
from edgeoe.files import path_in_report
from edgeoe.records.measurement import worst
from edgeoe.report.text_file import write_json
from edgeoe.settings import CompressSettings
from edgeoe.targets.here import not_measured

if TYPE_CHECKING:
    from edgeoe.pipeline import Deployed
    from edgeoe.run.directory import Run

__all__ = ["command"]


@takes_settings
def command(
    *,
    context: typer.Context,
    settings: CompressSettings,
    out: Annotated[Path, typer.Option(help="Run directory to write or to continue.", show_default=False)],
    test: Annotated[Path, typer.Option(help="Test images: a folder per class.", show_default=False)],
    device: DevicesOption = [],  # noqa: B006 - Typer's
    exporter: ExporterOption = "auto",
    one_student: Annotated[
        bool,
        typer.Option("--one-student", help="With a budget: one student for all targets, instead of one for each."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that has other settings.")] = False,
    json: JsonOption = None,
) -> int:
    """Run the whole pipeline, compress, export, build and validate, for one target or several.

    With a budget (--latency-ms, --speedup or \\[budget] of the profiles), each of several targets gets a student of its
    own in OUT/TARGET. On each --device the student is built and measured over SSH, on all at once. A target that is
    neither gets a bundle, with the commands that take it there. An existing student with the same settings and limits
    is kept. The exit code is that of the worst verdict; 3 if a target is not judged yet.

    Example: [bold]edgeoe deploy --config edgeoe.toml --out runs/a --target host-cpu --test test/[/]
    """
    from edgeoe.pipeline import Judged, Unreached, deploy
    from edgeoe.report.outcomes import outcome_table
    from edgeoe.report.terminal import bar, say, show_budget, show_speed, show_validation
    from edgeoe.report.terminal import out as console
    from edgeoe.run import layout
    from edgeoe.targets.load import load_target

    settings, devices = with_devices(context, settings, device)
    profiles, exporter_choice = [load_target(name) for name in settings.target], parse_exporter(exporter)

    def show(result: Deployed) -> None:
        if isinstance(result, Judged):
            show_validation(result.validation)
        elif isinstance(result, Unreached):
            say((result.reason, "red"))

    results = deploy(
        settings,
        out=out,
        targets=profiles,
        test=test,
        devices=devices,
        exporter=exporter_choice,
        one_student=one_student,
        overwrite=overwrite,
        each=show,
        progress=bar,
    )
    if not results:  # another process of torchrun
        return 0
    runs = {result.run.path: result.run for result in results}
    for run in runs.values():
        if len(runs) > 1:
            say((f"student in {run.path}:", "bold"))
        compressed = run.read(layout.COMPRESS)
        show_budget(compressed)
        show_speed(compressed)
    if len(results) > 1:
        console.print(outcome_table(results))
    write_json(json, _records(results, apart=len(runs) > 1))
    for run in runs.values():
        write_page(run)
    profile_names = dict(zip((profile.name for profile in profiles), settings.target, strict=True))
    _show_next_steps(results, test, profile_names)
    return EXIT_CODES[worst(result.outcome for result in results)]


def _records(results: Sequence[Deployed], *, apart: bool) -> dict[str, object]:
    """The records for `--json`.

    apart: each target has a student, whose records stand beside its verdict.
    """
    if apart:
        return {"targets": {result.target.name: _student(result.run) | _record(result) for result in results}}
    targets = {result.target.name: _record(result) for result in results}
    return {**_student(results[0].run), "targets": targets}


def _student(run: Run) -> dict[str, object]:
    """The records of a student for `--json`."""
    from edgeoe.report.json import compress_json
    from edgeoe.run import layout

    compressed = compress_json(run.read(layout.COMPRESS), run.read(layout.FACTS))
    return {"compress": compressed, "export": run.read(layout.EXPORT)}


def _record(result: Deployed) -> dict[str, object]:
    """The record of one target for `--json`."""
    from edgeoe.pipeline import Judged, Unreached
    from edgeoe.report.json import validation_json

    if isinstance(result, Judged):
        return validation_json(result.validation)
    if isinstance(result, Unreached):
        return {"verdict": result.outcome, "not_measured": result.reason}
    packed = replace(result.bundle, path=path_in_report(result.bundle.path))
    return {"verdict": result.outcome, "not_measured": not_measured(result.differs), "bundle": packed}


def _show_next_steps(results: Sequence[Deployed], test: Path, profile_names: Mapping[str, str]) -> None:
    """Print the commands for each device that is another machine, then the next step after the worst outcome.

    profile_names: the user's name or file of each target's profile, by name of the target.
    """
    from edgeoe.cli.bundle import show_bundle
    from edgeoe.cli.next_steps import after_verdict, lines_for_device
    from edgeoe.pipeline import Bundled, Judged, Unreached
    from edgeoe.report.terminal import say
    from edgeoe.run.layout import TargetFiles

    step, outcome = "", worst(result.outcome for result in results)
    for result in sorted(results, key=lambda result: isinstance(result, Bundled)):
        name, path = result.target.name, result.run.path
        if isinstance(result, Bundled):
            say(f"{name}: ", (f"inconclusive, {not_measured(result.differs)}", "yellow"))
            show_bundle(result.bundle)
            lines = lines_for_device(Path(result.bundle.path), path, name)
            for line in lines:
                say(f"  {line}")
            step = step or lines[0]
        elif isinstance(result, Unreached):
            step = step or f"edgeoe devices check {quoted(name)}"
        elif isinstance(result, Judged) and result.outcome == outcome != "passed" and not step:
            again = f"edgeoe validate {quoted(path)} --target {quoted(profile_names[name])} --test {quoted(test)}"
            step = after_verdict(path, profile_names[name], result.validation, again=again)
    if not step:
        run = results[0].run
        name = results[0].target.name
        if not run.has(TargetFiles(name).engine):  # it was built on the device
            step = f"edgeoe baseline save {quoted(run.path)} --target {quoted(name)} --name main"
        else:
            step = f"copy {quoted(run.path / run.read(TargetFiles(name).engine).artifact)} to the device"
    next_step(step)
