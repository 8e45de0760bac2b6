"""edgeoe export, build and validate: the stages that need only a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from edgeoe.cli.completion import complete_target
from edgeoe.cli.options import EXIT_CODES, FollowLinksOption, JsonOption, RunArgument, next_step, share
from edgeoe.cli.reports import show_and_write, takes_reports
from edgeoe.errors import ConfigError, quoted
from edgeoe.records.graphs import CalibrationMethod
from edgeoe.registry import PRECISIONS
from edgeoe.report.formats import Reports
from edgeoe.report.text_file import write_json

if TYPE_CHECKING:
    from edgeoe.stages.export import ExporterChoice

__all__ = [
    "ExporterOption",
    "TargetOption",
    "TargetsOption",
    "build_command",
    "export_command",
    "parse_calibration",
    "parse_exporter",
    "parse_precisions",
    "validate_command",
]

TargetOption = Annotated[
    str,
    typer.Option(help="Name of a profile, or a .toml file.", show_default=False, autocompletion=complete_target),
]
TargetsOption = Annotated[
    list[str],
    typer.Option(
        help="Name of a profile, or a .toml file; repeatable.", show_default=False, autocompletion=complete_target
    ),
]
ExporterOption = Annotated[
    str, typer.Option(help="Exporter of torch; auto: the first that works.", metavar="auto|dynamo|legacy")
]


def parse_precisions(texts: list[str]) -> list[str]:
    """Parse --precision: names, or lists of names separated by commas. Raises ConfigError."""
    names = [name for part in texts for name in part.split(",") if name]
    for name in names:
        if name not in PRECISIONS:
            raise ConfigError(f"--precision must be of {', '.join(PRECISIONS)}. Got {name!r}.")
    return names


def parse_calibration(name: str) -> CalibrationMethod:
    """Parse --calibration. Raises ConfigError."""
    if name not in get_args(CalibrationMethod):
        raise ConfigError(f"--calibration must be one of {', '.join(get_args(CalibrationMethod))}. Got {name!r}.")
    return cast("CalibrationMethod", name)


def parse_exporter(name: str) -> ExporterChoice:
    """Parse --exporter. Raises ConfigError."""
    if name not in ("auto", "dynamo", "legacy"):
        raise ConfigError(f"--exporter must be auto, dynamo or legacy. Got {name!r}.")
    return cast("ExporterChoice", name)


def export_command(
    run: RunArgument,
    exporter: ExporterOption = "auto",
    precision: Annotated[
        list[str],
        typer.Option(help=f"Repeatable, or separated by commas: {','.join(PRECISIONS)}.", metavar="P"),
    ] = ["fp32"],  # noqa: B006 - never modified
    calibration: Annotated[
        str, typer.Option(help="Rule that chooses int8 ranges.", metavar="|".join(get_args(CalibrationMethod)))
    ] = "percentile",
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Share of images whose class int8 may change; the most sensitive layers stay fp32 to meet it. "
            "Default: that of compress.",
            metavar="SHARE",
            parser=share,
            show_default=False,
        ),
    ] = None,
    bias_correction: Annotated[
        bool, typer.Option(help="Subtract the mean error of int8 weights from the biases.")
    ] = True,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Show the sensitivity of each layer to int8.")
    ] = False,
    json: JsonOption = None,
) -> int:
    """Write the student as ONNX, checked against it on real images.

    Example: [bold]edgeoe export runs/a --precision fp32,fp16,int8 --max-drop 0.01[/]
    """
    from edgeoe.graph.precision import Int8Settings
    from edgeoe.pipeline import export
    from edgeoe.report.terminal import bar, say, show_layers
    from edgeoe.run.directory import Run
    from edgeoe.stages.precisions import retry

    run_directory, exporter_choice, precisions = Run.open(run), parse_exporter(exporter), parse_precisions(precision)
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise ConfigError(f"--max-drop is a share of images, from 0 to 1. Got {max_drop}.")
    int8 = Int8Settings(
        calibration=parse_calibration(calibration),
        bias_correction=bias_correction,
        max_drop=max_drop,
        sensitivity=sensitivity,
    )
    record = export(run_directory, exporter=exporter_choice, precisions=precisions, int8=int8, progress=bar)
    write_json(json, record)
    say(
        f"{run / record.path}: opset {record.opset}, {record.exporter} exporter; max relative error "
        f"{record.max_rel_error:.1e}, same class on {100 * record.agreement:.0f} % of {record.images} images"
    )
    for graph in record.graphs:
        fp32_layers = f"; kept in fp32: {', '.join(graph.kept_fp32)}" if graph.kept_fp32 else ""
        say(
            f"{run / graph.path}: {graph.size_bytes / 1e6:.3f} MB; same class on {100 * graph.agreement:.1f} % of "
            f"{graph.images} other images{fp32_layers}"
        )
        if graph.layers:
            show_layers(graph)
    for refused in record.refused:
        say((f"{refused.precision} not written", "yellow"), f": {refused.reason}")
    for advice in dict.fromkeys(retry(run_directory, refused) for refused in record.refused):
        if advice:
            say(advice)
    next_step(f"edgeoe build {quoted(run)} --target host-cpu")
    return 0


def build_command(
    run: RunArgument,
    target: TargetOption,
    json: JsonOption = None,
) -> int:
    """Build the artifact for one target, and check that it loads and runs.

    Example: [bold]edgeoe build runs/a --target host-cpu[/]
    """
    from edgeoe.pipeline import build
    from edgeoe.report.terminal import bar, say
    from edgeoe.run.directory import Run
    from edgeoe.targets.load import load_target

    record = build(Run.open(run), load_target(target), progress=bar)
    write_json(json, record)
    say(
        f"{run / record.artifact}: {record.size_bytes / 1e6:.3f} MB for {record.backend} "
        f"{record.versions.get(record.backend, '')}, sha256 {record.sha256[:12]}"
    )
    next_step(f"edgeoe validate {quoted(run)} --target {quoted(target)} --test DIR")
    return 0


@takes_reports
def validate_command(
    *,
    run: RunArgument,
    target: TargetOption,
    test: Annotated[Path, typer.Option(help="Test images: a folder per class.", show_default=False)],
    follow_links: FollowLinksOption = False,
    reports: Reports,
) -> int:
    """Measure the built artifact's accuracy and latency, and judge both by the profile's budget.

    Latency is measured only on the profile's device; elsewhere the verdict is inconclusive at best.
    Exit code 0 passed, 1 failed, 3 inconclusive.

    Example: [bold]edgeoe validate runs/a --target host-cpu --test test/ --json out.json[/]
    """
    from edgeoe.cli.next_steps import after_verdict
    from edgeoe.pipeline import validate
    from edgeoe.report.terminal import bar
    from edgeoe.run.directory import Run
    from edgeoe.run.layout import TargetFiles
    from edgeoe.targets.load import load_target

    profile, run_directory = load_target(target), Run.open(run)
    validation = validate(run_directory, profile, test=test, follow_links=follow_links, progress=bar)
    show_and_write(run_directory, validation, reports)
    if validation.outcome == "passed":
        artifact = run_directory.read(TargetFiles(profile.name).engine).artifact
        next_step(f"copy {quoted(run / artifact)} to the device")
    else:
        again = f"edgeoe validate {quoted(run)} --target {quoted(target)} --test {quoted(test)}"
        next_step(after_verdict(run, target, validation, again=again))
    return EXIT_CODES[validation.outcome]
