"""edgeoe bundle and collect"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeoe.cli.completion import complete_run, complete_target
from edgeoe.cli.options import EXIT_CODES, SIGN_EXTRA, FollowLinksOption, JsonOption, RunArgument, next_step
from edgeoe.cli.reports import show_and_write, takes_reports
from edgeoe.cli.stages import TargetOption
from edgeoe.errors import ConfigError, quoted
from edgeoe.files import path_in_report
from edgeoe.report.formats import Reports
from edgeoe.report.text_file import write_json

if TYPE_CHECKING:
    from edgeoe.records.bundle import BundleRecord

__all__ = ["bundle_command", "collect_command", "show_bundle"]


def bundle_command(
    run: RunArgument,
    target: TargetOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Archive to write: .tar.zst (needs zstd on the device), .tar.gz or .tar.",
            show_default=False,
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(help="Test images, a folder per class, for accuracy on the device.", show_default=False),
    ] = None,
    follow_links: FollowLinksOption = False,
    sign: Annotated[
        Path | None,
        typer.Option(
            help=f"Private key (PEM, elliptic curve) that signs the archive: ARCHIVE.sig beside it. {SIGN_EXTRA}",
            metavar="KEY",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = None,
) -> int:
    """Pack a model with everything that builds, checks and measures it on a device without edgeoe.

    The device needs Python, numpy and the target's runtime. The same run gives the same bytes.

    Example: [bold]edgeoe bundle runs/a --target jetson-orin-nano -o bundle.tar.gz --test test/[/]
    """
    from edgeoe.cli.next_steps import lines_for_device
    from edgeoe.pipeline import bundle
    from edgeoe.report.terminal import bar, say
    from edgeoe.run.directory import Run
    from edgeoe.targets.load import load_target

    profile = load_target(target)
    record = bundle(Run.open(run), profile, out=out, test=test, follow_links=follow_links, sign=sign, progress=bar)
    write_json(json, replace(record, path=path_in_report(record.path), signature=path_in_report(record.signature)))
    show_bundle(record)
    *lines, last = lines_for_device(out, run, profile.name)
    for line in lines:
        say(f"  {line}")
    next_step(last)
    return 0


def show_bundle(record: BundleRecord) -> None:
    """Print the contents of a bundle."""
    from edgeoe.report.terminal import say

    say(
        f"{record.path}: {record.size_bytes / 1e6:.3f} MB, {len(record.files)} files, {record.test_images} test "
        f"images, sha256 {record.sha256[:12]}"
    )
    if record.signature:
        say(f"{record.signature}: its signature; to verify it: ", (_verify_command(record), "bold"))
    if not record.test_images:
        say(("without --test the device measures no accuracy, only agreement on the golden images", "dim"))
    if record.path.endswith(".zst"):
        say(("the device's tar needs zstd to unpack it; .tar.gz needs nothing", "dim"))
    say("to measure on the device, DEVICE being what ssh calls it:")


def _verify_command(record: BundleRecord) -> str:
    path, signature = quoted(record.path), quoted(record.signature)
    return f"model_signing verify key {path} --signature {signature} --public_key KEY"


@takes_reports
def collect_command(
    *,
    run: Annotated[
        Path,
        typer.Argument(
            help="The run directory that compress wrote; for a latency table, the table.json that run.py wrote.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    result: Annotated[
        Path | None,
        typer.Argument(help="The result.json that run.py wrote on the device.", show_default=False),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Profile whose budget judges, instead of the bundled one.",
            show_default=False,
            autocompletion=complete_target,
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            help=f"Public key (PEM); RESULT.sig beside the result must hold for it. {SIGN_EXTRA}",
            metavar="KEY",
            show_default=False,
        ),
    ] = None,
    reports: Reports,
) -> int:
    """Read the result of a bundle from its device into the run, and judge it; or keep a latency table for compress.

    Exit code 0 passed, 1 failed, 3 inconclusive.

    Example: [bold]edgeoe collect runs/a result.json[/]
    """
    if result is None:
        return _collect_table(run)
    from edgeoe.cli.next_steps import after_verdict
    from edgeoe.pipeline import collect
    from edgeoe.run.directory import Run
    from edgeoe.run.layout import unpacked_folder
    from edgeoe.targets.load import load_target

    run_directory = Run.open(run)
    validation = collect(run_directory, result, target=load_target(target) if target else None, verify=verify)
    show_and_write(run_directory, validation, reports)
    name = validation.target.name
    if validation.outcome == "passed":
        next_step(f"edgeoe baseline save {quoted(run)} --target {quoted(name)} --name main")
    else:
        again = f"python3 {unpacked_folder(name)}/run.py --out result.json"
        next_step(after_verdict(run, name, validation, again=again, bundled=True))
    return EXIT_CODES[validation.outcome]


def _collect_table(path: Path) -> int:
    from edgeoe.pipeline import collect_table
    from edgeoe.report.latency_table import latencies_text
    from edgeoe.report.terminal import say

    if path.is_dir():
        raise ConfigError(f"RESULT is missing: the result.json that run.py wrote for {quoted(path)} on the device.")
    table = collect_table(path)
    say(latencies_text(table))
    next_step(f"edgeoe compress with the same options, --target {quoted(table.target.name)} --latency-ms MS")
    return 0
