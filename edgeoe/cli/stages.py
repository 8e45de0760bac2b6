"""edgeoe export, build and validate: the stages that need nothing but a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgeoe.cli.options import EXIT_CODES, ConfigOption, JsonOption, RunArgument, next_step, write_json
from edgeoe.errors import ConfigError

if TYPE_CHECKING:
    from edgeoe.graph.export import Exporter

__all__ = [
    "ExporterOption",
    "TargetOption",
    "build_command",
    "checked_exporter",
    "export_command",
    "validate_command",
]

TargetOption = Annotated[str, typer.Option(help="Name of a profile, or a .toml file.", show_default=False)]
ExporterOption = Annotated[str, typer.Option(help="torch's exporter.", metavar="dynamo|legacy")]


def checked_exporter(name: str) -> Exporter:
    """`name` as the exporter that it is. Raises ConfigError."""
    if name not in ("dynamo", "legacy"):
        raise ConfigError(f"--exporter must be dynamo or legacy. Got {name!r}.")
    return cast("Exporter", name)


def export_command(
    run: RunArgument,
    exporter: ExporterOption = "dynamo",
    config: ConfigOption = None,  # noqa: ARG001 - its callback sets the defaults
    json: JsonOption = None,
) -> int:
    """Write the student as ONNX, checked against it on real images.

    Example: [bold]edgeoe export runs/a[/]
    """
    from edgeoe.pipeline import export
    from edgeoe.report.terminal import bar, out
    from edgeoe.run import Run

    opened, chosen = Run.open(run), checked_exporter(exporter)
    with bar("Exporting", 1) as advance:
        record = export(opened, exporter=chosen)
        advance()
    write_json(json, record)
    out.print(
        f"{run / record.path}: opset {record.opset}, {record.exporter} exporter; max relative error "
        f"{record.max_rel_error:.1e}, same class on {100 * record.agreement:.0f} % of {record.images} images",
        soft_wrap=True,
    )
    next_step(f"edgeoe build {run} --target host-cpu")
    return 0


def build_command(
    run: RunArgument,
    target: TargetOption,
    config: ConfigOption = None,  # noqa: ARG001 - its callback sets the defaults
    json: JsonOption = None,
) -> int:
    """Build the artifact for one target, and prove that it loads and runs.

    Example: [bold]edgeoe build runs/a --target host-cpu[/]
    """
    from edgeoe.pipeline import build
    from edgeoe.report.terminal import out
    from edgeoe.run import Run
    from edgeoe.targets import load_target

    record = build(Run.open(run), load_target(target))
    write_json(json, record)
    out.print(
        f"{run / record.artifact}: {record.size_bytes / 1e6:.3f} MB for {record.backend} "
        f"{record.versions.get(record.backend, '')}, sha256 {record.sha256[:12]}",
        soft_wrap=True,
    )
    next_step(f"edgeoe validate {run} --target {target} --test DIR")
    return 0


def validate_command(
    run: RunArgument,
    target: TargetOption,
    test: Annotated[Path, typer.Option(help="Test images: a folder per class.", show_default=False)],
    config: ConfigOption = None,  # noqa: ARG001 - its callback sets the defaults
    json: JsonOption = None,
) -> int:
    """Measure the built artifact's accuracy and latency, and judge both by the profile's budget.

    Exit code 0 passed, 1 failed, 3 inconclusive.

    Example: [bold]edgeoe validate runs/a --target host-cpu --test test/ --json out.json[/]
    """
    from edgeoe.pipeline import validate
    from edgeoe.report.terminal import bar, show_measurement, show_verdict
    from edgeoe.run import Run
    from edgeoe.targets import load_target

    profile, opened = load_target(target), Run.open(run)
    measurement, verdict = validate(opened, profile, test=test, progress=bar)
    record = opened.read_record(f"targets/{profile.name}/validation.json", made_by="validate")
    write_json(json, record)
    show_measurement(profile.name, record["classes"], measurement)
    show_verdict(profile.name, verdict)
    if verdict.outcome == "passed":
        next_step(f"copy {run}/targets/{profile.name}/model.onnx to the device")
    else:
        next_step(f"edgeoe targets show {target}   (its budget), or compress again with other settings")
    return EXIT_CODES[verdict.outcome]
