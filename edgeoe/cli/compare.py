"""edgeoe compare and baseline: the commands of a CI job. Nothing here needs torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeoe.cli.completion import complete_run
from edgeoe.cli.options import EXIT_CODES, SIGN_EXTRA, FollowLinksOption, JsonOption, everywhere, next_step, share
from edgeoe.cli.reports import takes_reports
from edgeoe.cli.stages import TargetOption, TargetsOption
from edgeoe.errors import ConfigError, quoted
from edgeoe.files import path_in_report
from edgeoe.records.measurement import worst
from edgeoe.report.formats import Reports
from edgeoe.report.text_file import write_json

if TYPE_CHECKING:
    from edgeoe.stages.baseline import Baseline

__all__ = ["baseline_app", "compare_command"]

_Side = "a run, a result (.json), an artifact's file, or a baseline in --store."
StoreOption = Annotated[Path, typer.Option(help="Folder of baselines.")]
baseline_app = typer.Typer(help="Artifacts and results that later ones are compared with.", no_args_is_help=True)


def _tolerance(text: str) -> float:
    """Typer's parser of tolerances: 3% or 0.03 -> fraction."""
    value = share(text)
    if not 0 <= value < 1:
        raise typer.BadParameter(f"a share is from 0 to under 100%. Got {text!r}")
    return value


def _tolerance_option(help: str, default: str) -> Any:  # noqa: A002 - as Typer calls it
    return typer.Option(help=help, metavar="SHARE", parser=_tolerance, show_default=default)


def _side(help: str) -> Any:  # noqa: A002 - as above
    return typer.Argument(help=help, show_default=False, autocompletion=complete_run)


@takes_reports
def compare_command(
    *,
    base: Annotated[str, _side(f"The old version: {_Side}")],
    new: Annotated[str, _side(f"The new version: {_Side}")],
    target: TargetsOption,
    tolerance: Annotated[float, _tolerance_option("Slow-down of p50 that is not a regression.", "3%")] = 0.03,
    p99_tolerance: Annotated[float, _tolerance_option("Slow-down of p99 that is not a regression.", "10%")] = 0.1,
    accuracy_tolerance: Annotated[float, _tolerance_option("Loss of top-1 that is not a regression.", "2%")] = 0.02,
    class_tolerance: Annotated[
        float, _tolerance_option("Loss of a rare class's recall that is not a regression.", "10%")
    ] = 0.1,
    store: StoreOption = Path("baselines"),
    stored: Annotated[
        bool, typer.Option("--stored", help="Compare latencies as the results report them; measure none.")
    ] = False,
    test: Annotated[
        Path | None,
        typer.Option(
            help="Test images, a folder per class, that both predict here; else predictions are those of the results.",
            show_default=False,
        ),
    ] = None,
    follow_links: FollowLinksOption = False,
    verify: Annotated[
        Path | None,
        typer.Option(
            help="Public key (PEM): results that figures are taken from must be signed, RESULT.sig beside each. "
            f"{SIGN_EXTRA}",
            metavar="KEY",
            show_default=False,
        ),
    ] = None,
    max_minutes: Annotated[
        float, typer.Option(help="Limit per target, after which it is inconclusive.", min=0.1)
    ] = 5.0,
    reports: Reports,
) -> int:
    """Test whether NEW is slower or less accurate than BASE.

    The two artifacts run here interleaved, in fresh processes, until the result is clear. Exit code 0 no worse, 1
    regressed, 3 inconclusive. baseline:NAME and run:PATH say which is meant. No edgeoe.toml is read unless --config
    names it. Needs no torch: pip install 'edgeoe\\[gate]'.

    Example: [bold]edgeoe compare baseline:main runs/b --target host-cpu --tolerance 3% --test test/[/]
    """
    from edgeoe.report.comparison import show_comparison
    from edgeoe.report.terminal import bar
    from edgeoe.stages.baseline import Store
    from edgeoe.stages.compare import GateSettings, compare
    from edgeoe.stages.sides import find_side, unchanged_sides
    from edgeoe.targets.load import load_target

    settings = GateSettings(
        tolerance=tolerance,
        p99_tolerance=p99_tolerance,
        accuracy_tolerance=accuracy_tolerance,
        class_tolerance=class_tolerance,
        most_seconds=60 * max_minutes,
    )
    profiles, baselines = [load_target(name) for name in target], Store(store)
    with unchanged_sides(base, new):
        sides = [(one, find_side(base, one, baselines), find_side(new, one, baselines)) for one in profiles]
        comparisons = compare(
            sides, settings, stored=stored, test=test, follow_links=follow_links, verify=verify, progress=bar
        )
    reports.write_comparisons(comparisons)
    for comparison in comparisons:
        show_comparison(comparison)
    return EXIT_CODES[worst(comparison.outcome for comparison in comparisons)]


@baseline_app.callback()
@partial(everywhere, config=False)
def _group() -> None:
    pass


@baseline_app.command("save")
@everywhere
def save_command(
    run: Annotated[str, _side("A run, or a result (.json) from a device.")],
    target: TargetOption,
    name: Annotated[str, typer.Option(help="Name of the baseline: a branch, a release.")] = "main",
    store: StoreOption = Path("baselines"),
    sign: Annotated[
        Path | None,
        typer.Option(
            help=f"Private key (PEM, elliptic curve) that signs it. {SIGN_EXTRA}", metavar="KEY", show_default=False
        ),
    ] = None,
    json: JsonOption = None,
) -> int:
    """Save an artifact and its result for later comparisons.

    Example: [bold]edgeoe baseline save runs/a --target host-cpu --name main[/]
    """
    from edgeoe.report.terminal import say
    from edgeoe.stages.baseline import Store
    from edgeoe.stages.sides import find_side, unchanged_sides
    from edgeoe.stages.signing import signer_with
    from edgeoe.targets.here import differences, not_measured
    from edgeoe.targets.load import load_target

    profile, baselines = load_target(target), Store(store)
    signer = signer_with(sign) if sign else None
    with unchanged_sides(run):
        side = find_side(run, profile, baselines)
        if side.result is None:
            raise ConfigError(
                f"{run}: not measured yet. First: edgeoe validate {quoted(run)} --target {quoted(target)} --test DIR"
            )
        baseline = baselines.save(name, side.result, side.artifact)
    if signer:
        signer(baseline.file)
    write_json(json, _record(baseline))
    what = "artifact and result" if baseline.artifact else "only the result: the artifact is not available"
    differs = differences(profile, side.result.environment)
    if differs:
        what += f"; without a latency, {not_measured(differs)}"
    say(f"{store}: {name} for {profile.name}, sha256 {baseline.result.artifact_sha256[:12]}, {what}")
    next_step(f"edgeoe compare {quoted(name)} RUN --target {quoted(target)}")
    return 0


@baseline_app.command("list")
@everywhere
def list_command(store: StoreOption = Path("baselines"), json: JsonOption = None) -> int:
    """List the baselines in a folder.

    Example: [bold]edgeoe baseline list[/]
    """
    from edgeoe.report.terminal import out, say, table
    from edgeoe.stages.baseline import Store

    records = [_record(baseline) for baseline in Store(store)]
    write_json(json, records)
    if not records:
        say(f"{store}: no baselines")
        next_step("edgeoe baseline save RUN --target host-cpu --name main")
        return 0
    header = ("name", "target", "artifact", "MB", "p50 ms", "top-1", "saved")
    rows = [
        (
            record["name"],
            record["target"],
            record["artifact_sha256"][:12],
            f"{record['size_bytes'] / 1e6:.3f}",
            "" if record["p50_ms"] is None else f"{record['p50_ms']:.3f}",
            "" if record["top1"] is None else f"{100 * record['top1']:.1f} %",
            "artifact, result" if record["artifact"] else "result",
        )
        for record in records
    ]
    view = table(str(store), header, rows)
    for column in (1, 2, 6):
        view.columns[column].justify = "left"
    out.print(view)
    return 0


@baseline_app.command("show")
@everywhere
def show_command(
    name: Annotated[str, typer.Argument(help="The baseline.", show_default=False)],
    target: TargetOption,
    store: StoreOption = Path("baselines"),
    json: JsonOption = None,
) -> int:
    """Show a baseline: figures, device, settings.

    Example: [bold]edgeoe baseline show main --target host-cpu[/]
    """
    from edgeoe.report.terminal import out, table
    from edgeoe.stages.baseline import Store

    record = _record(Store(store).find(name, target))
    write_json(json, record)
    rows = [(key, str(value)) for key, value in record.items() if not isinstance(value, dict)]
    for group in ("environment", "settings"):
        rows += [(f"{group}: {key}", str(value)) for key, value in record[group].items()]
    view = table(f"{name} for {target}", ("", ""), rows)
    view.columns[1].justify = "left"
    out.print(view)
    return 0


def _record(baseline: Baseline) -> dict[str, Any]:
    import numpy as np

    from edgeoe.measure.statistics import percentile_over_processes

    result = baseline.result
    predictions = result.predictions
    calls = [np.asarray(part) for part in result.speed.calls_ms] if result.speed else []
    return {
        "name": baseline.name,
        "target": baseline.target,
        "artifact": path_in_report(baseline.artifact) if baseline.artifact else None,
        "artifact_sha256": result.artifact_sha256,
        "size_bytes": result.size_bytes,
        "p50_ms": percentile_over_processes(calls, 0.50).value if calls else None,
        "p99_ms": percentile_over_processes(calls, 0.99).value if calls else None,
        "processes": len(calls),
        "top1": float(np.equal(predictions.chosen, predictions.labels).mean()) if predictions else None,
        "test_images": len(predictions.labels) if predictions else 0,
        "environment": result.environment,
        "settings": result.settings,
    }
