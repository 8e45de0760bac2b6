"""edgeoe bundle and collect"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeoe.cli.completion import complete_target
from edgeoe.cli.options import EXIT_CODES, JsonOption, RunArgument, next_step, write_json
from edgeoe.cli.reports import GithubOption, JunitOption, MarkdownOption, tell_verdict
from edgeoe.cli.stages import TargetOption
from edgeoe.errors import quoted

__all__ = ["bundle_command", "collect_command"]


def bundle_command(
    run: RunArgument,
    target: TargetOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Archive to write: .tar.zst (its tar must know zstd), .tar.gz or .tar.",
            show_default=False,
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(help="Test images, a folder per class, for accuracy on the device.", show_default=False),
    ] = None,
    json: JsonOption = None,
) -> int:
    """Pack a model with all that builds, checks and measures it on a device without edgeoe.

    The device needs Python, numpy and the target's runtime. The same run gives the same bytes.

    Example: [bold]edgeoe bundle runs/a --target jetson-orin-nano -o bundle.tar.zst --test test/[/]
    """
    from edgeoe.pipeline import bundle
    from edgeoe.report.terminal import bar, say
    from edgeoe.run import Run
    from edgeoe.targets import load_target

    profile = load_target(target)
    record = bundle(Run.open(run), profile, out=out, test=test, progress=bar)
    write_json(json, record)
    say(
        f"{record.path}: {record.size_bytes / 1e6:.3f} MB, {len(record.files)} files, {record.test_images} test "
        f"images, sha256 {record.sha256[:12]}"
    )
    if not record.test_images:
        say(("without --test the device measures no accuracy, only agreement on the golden images", "dim"))
    folder = f"edgeoe-{profile.name}"
    say(f"on the device: tar -xf {quoted(out.name)} && python3 {quoted(f'{folder}/run.py')} --out validation.json")
    next_step(f"edgeoe collect {quoted(run)} validation.json")
    return 0


def collect_command(
    run: RunArgument,
    result: Annotated[Path, typer.Argument(help="What the bundle wrote on the device.", show_default=False)],
    target: Annotated[
        str | None,
        typer.Option(
            help="A profile whose budget judges instead of the bundled one.",
            show_default=False,
            autocompletion=complete_target,
        ),
    ] = None,
    junit: JunitOption = None,
    markdown: MarkdownOption = None,
    github: GithubOption = False,
    json: JsonOption = None,
) -> int:
    """Read what a bundle measured on its device back into the run, and judge it.

    Exit code 0 passed, 1 failed, 3 inconclusive.

    Example: [bold]edgeoe collect runs/a validation.json[/]
    """
    from edgeoe.pipeline import collect
    from edgeoe.run import Run
    from edgeoe.targets import load_target

    opened = Run.open(run)
    profile, measurement, verdict = collect(opened, result, target=load_target(target) if target else None)
    tell_verdict(opened, profile.name, measurement, verdict, json=json, junit=junit, markdown=markdown, github=github)
    if verdict.outcome == "passed":
        next_step(f"edgeoe baseline save {quoted(run)} --target {quoted(profile.name)} --name main")
    else:
        next_step(f"edgeoe targets show {quoted(profile.name)}   (its budget), or compress again with other settings")
    return EXIT_CODES[verdict.outcome]
