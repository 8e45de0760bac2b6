"""Logging of a command: -v, -q and --log-file, before or after the command's name."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

import typer

from edgeoe import __version__
from edgeoe.errors import ConfigError, first_line, quoted
from edgeoe.text import visible, visible_lines

__all__ = ["be_quiet", "be_verbose", "begin_logging", "end_logging", "is_verbose", "log_file", "write_log_file"]

_package = logging.getLogger("edgeoe")
_log = logging.getLogger(__name__)


class _TerminalHandler(logging.Handler):
    """Prints log records above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        from edgeoe.report.terminal import err, say

        try:
            say(f"edgeoe: {record.getMessage()}", to=err)
        except Exception:
            self.handleError(record)


def begin_logging() -> None:
    """Log warnings to stderr, until an option changes that."""
    end_logging()
    handler = _TerminalHandler()
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)


def end_logging() -> None:
    """Remove the handlers and levels of this command."""
    root = logging.getLogger()
    for handler in [*root.handlers]:
        if isinstance(handler, _TerminalHandler | _FileHandler):
            root.removeHandler(handler)
            handler.close()
    _package.setLevel(logging.NOTSET)
    if (terminal := sys.modules.get("edgeoe.report.terminal")) is not None:
        terminal.set_quiet(False)


class _FileHandler(logging.FileHandler):
    """The log file. If it can't be written any more, that is said once, and the command goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - of logging
        logging.getLogger().removeHandler(self)
        _log.warning(
            "--log-file %s: can't be written: %s",
            self.baseFilename,
            first_line(reason) if (reason := sys.exc_info()[1]) else "",
        )


class _Formatter(logging.Formatter):
    """The lines of the log file: a message is one of them, whatever it contains, and a traceback is indented."""

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # another handler may have kept the traceback as it is
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        record.message = visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as above
        return indent(visible_lines(super().formatException(ei)), "    ")


def be_verbose(context: typer.Context, value: bool) -> None:
    """The callback of --verbose."""
    if value and not context.resilient_parsing:
        _set_terminal_level(logging.INFO)
        _package.setLevel(min(_package.level or logging.INFO, logging.INFO))


def be_quiet(context: typer.Context, value: bool) -> None:
    """The callback of --quiet."""
    if value and not context.resilient_parsing:
        from edgeoe.report.terminal import set_quiet

        _set_terminal_level(logging.ERROR)
        set_quiet(True)


def write_log_file(context: typer.Context, path: Path | None) -> None:
    """The callback of --log-file. Raises ConfigError if the file can't be written."""
    if path is None or context.resilient_parsing:
        return
    try:
        handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as reason:
        raise ConfigError(f"--log-file {path}: can't be written: {reason.strerror}.") from None
    handler.addFilter(lambda record: record.name.startswith("edgeoe") or record.levelno >= logging.WARNING)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    _package.setLevel(logging.DEBUG)
    _log.debug("edgeoe %s, Python %s: %s", __version__, sys.version.split()[0], " ".join(map(quoted, sys.argv)))


def is_verbose() -> bool:
    """Whether -v was given."""
    return any(
        isinstance(handler, _TerminalHandler) and handler.level <= logging.INFO
        for handler in logging.getLogger().handlers
    )


def log_file() -> Path | None:
    """The file that --log-file names."""
    names = [
        Path(handler.baseFilename) for handler in logging.getLogger().handlers if isinstance(handler, _FileHandler)
    ]
    return names[0] if names else None


def _set_terminal_level(level: int) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _TerminalHandler):
            handler.setLevel(level)
