"""Messages and exit codes of commands that end with an exception.

2 is for errors that the user can fix, 70 for a bug of edgeoe, 130 for an interruption. 1 and 3 are verdicts, never
exceptions.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

import typer

from edgeoe import __version__
from edgeoe.cli.logs import is_verbose, log_file
from edgeoe.config import Config
from edgeoe.errors import EdgeoeError, OutOfReachError, first_line, is_out_of_memory
from edgeoe.interruption import EXIT_CODE, interruption_line, was_interrupted
from edgeoe.registry import nearest
from edgeoe.system_errors import system_error, system_error_text
from edgeoe.targets.backends import known_backends
from edgeoe.text import visible_lines, with_short_names
from edgeoe.versions import versions

__all__ = ["BUG", "USER_ERROR", "report_failure", "report_interruption"]

USER_ERROR, BUG = 2, 70  # 70 is EX_SOFTWARE of sysexits.h
_COMPRESS = (  # packages that a minimal installation lacks and the extra `compress` installs
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
)
_USAGE_ERROR: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_TRAINING = "a smaller --batch, [oe] ood_batch or [oe] compression_images, or smaller images ([preprocess] size)"
_SMALLER = {  # advice after an out-of-memory error, by command
    "compress": _TRAINING,
    "deploy": f"{_TRAINING}; a smaller [measure] batch in the profile",
    "inspect": "smaller images ([preprocess] size), or another --teacher",
    "export": "--calibration minmax, which keeps no activations, or a run of smaller images ([preprocess] size)",
    "bundle": "fewer images in --test",
    "samples": "smaller images ([preprocess] size), or another --teacher",
    "latency-table": f"{_TRAINING}; a smaller [measure] batch in the profile",
    **dict.fromkeys(("report", "collect", "baseline", "targets", "methods", "doctor", "demo"), ""),  # nothing to set
}
_SYNONYMS = dict.fromkeys(  # what other programs call options
    ("--device", "--devices"), ("--target", "--accelerator")
)
_ELSE_SMALLER = "a smaller [measure] batch, or smaller throughput_batches, in the profile"
_log = logging.getLogger(__name__)


def report_failure(reason: BaseException, arguments: list[str]) -> int:
    """Print one line about `reason` for the user of the command line `arguments`. Returns the exit code."""
    if was_interrupted() or isinstance(reason, KeyboardInterrupt | typer.Abort):
        return report_interruption()
    if isinstance(reason, SystemExit):
        pipe_closed = isinstance(reason.__context__, BrokenPipeError)  # nobody reads on: edgeoe -h | head -1
        return 0 if pipe_closed or reason.code is None else reason.code if isinstance(reason.code, int) else USER_ERROR
    _log.debug("ended by:", exc_info=reason)
    message = _user_message(reason, arguments)
    if message is None:
        return _report_bug(reason, arguments)
    if isinstance(reason, OutOfReachError) and reason.table:
        _show_savings(reason)
    if message:
        _say_error("error: ", message)
    return USER_ERROR


def report_interruption() -> int:
    """Print that the command was interrupted, if the terminal is open. Returns the exit code."""
    from edgeoe.report.terminal import err, say

    try:
        say(("interrupted", "yellow"), interruption_line().removeprefix("interrupted"), to=err)
    except OSError:  # the terminal is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return EXIT_CODE


def _user_message(reason: BaseException, arguments: list[str]) -> str | None:
    """The message about an error that the user can fix; empty if it is already printed; None for a bug."""
    if is_out_of_memory(reason):
        smaller = next((_SMALLER[word] for word in arguments if word in _SMALLER), _ELSE_SMALLER)
        advice = f"Use less with {smaller}." if smaller else "Close other programs."
        return f"out of memory: {first_line(reason).rstrip('.')}. {advice}"
    if isinstance(reason, EdgeoeError):
        return str(reason)
    if isinstance(reason, _USAGE_ERROR):
        message = reason.format_message().partition(" (Possible options: ")[0].rstrip(".")  # type: ignore[attr-defined]
        if not message:  # the help was shown instead
            return ""
        return f"{message}.{_meant_option(reason)}{_of_stripped_run(reason)} See --help."
    if isinstance(reason, ModuleNotFoundError) and (install := _install((reason.name or "").partition(".")[0])):
        return f"this needs {reason.name}: {install}"
    if isinstance(reason, ImportError) and "edgeoe" not in f"{reason.name} {reason}":
        return f"a package can't be imported: {first_line(reason)}. Reinstall it; edgeoe doctor shows what works here."
    if (error := system_error(reason)) is not None:
        if not error.filename and _output_fails():
            error = OSError(error.errno, error.strerror, "standard output")
        return system_error_text(error)
    return None


def _output_fails() -> bool:
    """Whether what was printed can't be written: what could not be is kept, and tried again here."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return True
    return False


def _meant_option(reason: Exception) -> str:
    """Suggestion for an unknown option: those of the command that mean the same, else the one that is spelled alike."""
    context = getattr(reason, "ctx", None)
    offered = {name for one in context.command.get_params(context) for name in one.opts} if context else set()
    name: str = getattr(reason, "option_name", "")
    if meant := [repr(one) for one in _SYNONYMS.get(name, ()) if one in offered]:
        return f" Did you mean {' or '.join(meant)}?"
    spelled_alike = getattr(reason, "possibilities", None)
    return f" {nearest(name, spelled_alike)}" if spelled_alike else ""


def _of_stripped_run(reason: Exception) -> str:
    """Where an option is missing that `edgeoe run strip` has removed from the file of options: that it has."""
    config = getattr(getattr(reason, "ctx", None), "obj", None)
    if type(reason).__name__ != "MissingParameter" or not isinstance(config, Config) or not config.is_stripped:
        return ""
    return f" edgeoe run strip has removed the paths from {config.path}: name them, or use the run as it was before."


def _install(module: str) -> str:
    """The command that installs a top-level `module`; empty for one that edgeoe does not use."""
    extras = {**dict.fromkeys(_COMPRESS, "compress"), "scipy": "gate"}
    runtimes = {name: traits.install for traits in known_backends().values() for name in traits.modules}
    return f"pip install 'edgeoe[{extras[module]}]'" if module in extras else runtimes.get(module, "")


def _report_bug(reason: BaseException, arguments: list[str]) -> int:
    trace = "".join(traceback.format_exception(reason))
    facts = ", ".join(f"{name} {version}" for name, version in versions("torch", "onnx", "onnxruntime").items())
    report = f"edgeoe {__version__} on {platform.platform()}: {facts}\nedgeoe {shlex.join(arguments)}\n\n{trace}"
    where = log_file() or _write_report(report)
    if is_verbose() or where is None:
        sys.stderr.write(visible_lines(trace))
    place = f"Its traceback is in {where}" if where else "Its traceback is above"
    _say_error(
        "bug in edgeoe: ",
        f"{type(reason).__name__}: {first_line(reason)}. {place}: please report it, with this command and what "
        "`edgeoe doctor` prints, to the maintainer of your edgeoe. No incomplete file was left.",
    )
    return BUG


def _write_report(report: str) -> Path | None:
    """Write `report` to a new file; None if that fails."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="edgeoe-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as stream:
            stream.write(report)
        return Path(stream.name)
    except OSError:
        return None


def _show_savings(reason: OutOfReachError) -> None:
    from edgeoe.report.terminal import err, table

    header, *rows = reason.table
    err.print(table("what each kind of part saves at most", header, rows))


def _say_error(label: str, message: str) -> None:
    from edgeoe.report.terminal import err, say

    say((label, "red"), with_short_names(" ".join(message.split())), to=err)
