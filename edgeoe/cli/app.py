"""The tree of commands, and the run of a command line to its exit code."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer

from edgeoe import __version__
from edgeoe.cli import (
    bundle,
    compare,
    compress,
    demo,
    deploy,
    devices,
    doctor,
    inspect,
    latency_table,
    methods,
    reports,
    run_group,
    samples,
    sbom,
    stages,
    targets,
    trust,
)
from edgeoe.cli.failures import report_failure, report_interruption
from edgeoe.cli.logs import begin_logging, end_logging
from edgeoe.cli.options import everywhere
from edgeoe.cli.settings import SettingsCommand
from edgeoe.conversions import with_home
from edgeoe.errors import on_command_line
from edgeoe.interruption import EXIT_CODE

__all__ = ["app", "run"]

app = typer.Typer(
    name="edgeoe",
    help="Compress a vision classifier with a few class-imbalanced images, and ship it with a verdict.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("inspect")(everywhere(inspect.command))
app.command("compress", cls=SettingsCommand)(everywhere(compress.command))
app.command("export")(everywhere(stages.export_command))
app.command("build")(everywhere(stages.build_command))
app.command("validate")(everywhere(stages.validate_command))
app.command("deploy", cls=SettingsCommand)(everywhere(deploy.command))
app.command("latency-table", cls=SettingsCommand)(everywhere(latency_table.command))
app.command("bundle")(everywhere(bundle.bundle_command))
app.command("collect")(everywhere(bundle.collect_command))
app.command("compare")(everywhere(compare.compare_command, config="named"))
app.command("sbom")(everywhere(sbom.command, config=False))
app.command("trust")(everywhere(trust.command, config=False))
app.command("report")(everywhere(reports.report_command))
app.add_typer(compare.baseline_app, name="baseline")
app.add_typer(run_group.app, name="run")
app.add_typer(targets.app, name="targets")
app.add_typer(devices.app, name="devices")
app.command("methods")(everywhere(methods.command, config=False))
app.command("samples")(everywhere(samples.command))
app.command("doctor")(everywhere(doctor.command, config=False))
app.command("demo")(everywhere(demo.command))


def _show_version(context: typer.Context, value: bool) -> None:
    if value and not context.resilient_parsing:
        from edgeoe.report.terminal import say
        from edgeoe.versions import versions

        others = {name: version for name, version in versions("torch", "onnxruntime").items() if name != "edgeoe"}
        say(f"edgeoe {__version__} ({', '.join(f'{name} {version}' for name, version in others.items())})")
        raise typer.Exit


@app.callback()
@partial(everywhere, config=False)
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show versions and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run the command line `arguments` and return its exit code. Every exception becomes a message and a code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # the user can't fix deprecations of other packages
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files and classes may contain anything
    with on_command_line():
        return _run([_expand_home(word) for word in arguments])


def _run(arguments: list[str]) -> int:
    begin_logging()
    try:
        code = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()  # at exit Python would report an error of its own
        if code == EXIT_CODE:  # some versions of typer turn Ctrl-C into this code themselves
            return report_interruption()
        return code if isinstance(code, int) else 0
    except BaseException as reason:
        code = report_failure(reason, arguments)
        _give_up_unwritable_output()
        return code
    finally:
        end_logging()


def _give_up_unwritable_output() -> None:
    """Have Python not report at exit that standard output can't be written: that is said already."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _expand_home(word: str) -> str:
    """`word` with ~ expanded as in a shell, and also where a shell does not: in --out=~/run, and within quotes."""
    option = re.match(r"--[\w-]+=|-\w(?=~)|", word)
    assert option is not None  # noqa: S101 - it may match nothing
    return option[0] + with_home(word[option.end() :])
