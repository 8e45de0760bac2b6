"""The command line: parses, calls the pipeline, shows results, and turns errors into exit codes.

0 passed, 1 verdict failed, 2 user error, 3 inconclusive, 130 interrupted.
"""

from __future__ import annotations

import logging
import signal
import sys
import warnings

import typer

from edgeoe.cli import (
    bundle,
    compare,
    compress,
    demo,
    deploy,
    doctor,
    inspect,
    methods,
    reports,
    samples,
    stages,
    targets,
)
from edgeoe.errors import EdgeoeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="edgeoe",
    help="Compress a vision classifier with a few class-imbalanced images, and ship it with a verdict.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
app.command("inspect")(inspect.command)
app.command("compress")(compress.command)
app.command("export")(stages.export_command)
app.command("build")(stages.build_command)
app.command("validate")(stages.validate_command)
app.command("deploy")(deploy.command)
app.command("bundle")(bundle.bundle_command)
app.command("collect")(bundle.collect_command)
app.command("compare")(compare.compare_command)
app.command("report")(reports.report_command)
app.add_typer(compare.baseline_app, name="baseline")
app.add_typer(targets.app, name="targets")
app.command("methods")(methods.command)
app.command("samples")(samples.command)
app.command("doctor")(doctor.command)
app.command("demo")(demo.command)

_EXTRAS = {  # packages that a lean installation lacks, and the extra that brings each
    **dict.fromkeys(("onnxruntime", "scipy"), "gate"),
    **dict.fromkeys(
        (
            "jinja2",
            "lightning_fabric",
            "onnx",
            "onnxconverter_common",
            "onnxscript",
            "PIL",
            "sklearn",
            "timm",
            "tomli_w",
            "torch",
            "torchvision",
            "zstandard",
        ),
        "compress",
    ),
}
_ERROR = ("error: ", "red")
_USAGE_ERROR: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from edgeoe.report.terminal import err, say

    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # other packages' deprecations are not the user's to mend
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a CI that gives up cleans up as Ctrl-C does
    logging.basicConfig(level=logging.WARNING, format="edgeoe: %(message)s")
    try:
        code = app(args=arguments, standalone_mode=False)
    except EdgeoeError as reason:
        say(_ERROR, _one_line(str(reason)), to=err)
        code = 2
    except _USAGE_ERROR as reason:
        message = reason.format_message().rstrip(".")  # type: ignore[attr-defined]
        if message:  # none where the help was shown instead
            say(_ERROR, f"{_one_line(message)}. See --help.", to=err)
        code = 2
    except ModuleNotFoundError as missing:
        needed = _EXTRAS.get((missing.name or "").partition(".")[0])
        if needed is None:
            raise
        say(_ERROR, f"this needs {missing.name}: pip install 'edgeoe[{needed}]'", to=err)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # some versions of typer turn Ctrl-C into this code themselves
        say(("interrupted", "yellow"), ": nothing half-written was left.", to=err)
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(message: str) -> str:
    return " ".join(message.split())
