"""How much a command says: -v, -q and --log-file, which stand before or after the command's name."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import typer

from edgeoe import __version__
from edgeoe.errors import ConfigError, quoted

__all__ = ["be_quiet", "be_verbose", "begin_logging", "end_logging", "is_verbose", "log_file", "write_log_file"]

_package = logging.getLogger("edgeoe")
_log = logging.getLogger(__name__)


class _OnTerminal(logging.Handler):
    """Prints above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        from edgeoe.report.terminal import err, say

        try:
            say(f"edgeoe: {record.getMessage()}", to=err)
        except Exception:
            self.handleError(record)


def begin_logging() -> None:
    """Warnings to stderr, until an option says otherwise."""
    end_logging()
    handler = _OnTerminal()
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)


def end_logging() -> None:
    """Take back what this command set up."""
    root = logging.getLogger()
    for handler in [*root.handlers]:
        if isinstance(handler, _OnTerminal | _InFile):
            root.removeHandler(handler)
            handler.close()
    _package.setLevel(logging.NOTSET)
    if (terminal := sys.modules.get("edgeoe.report.terminal")) is not None:
        terminal.set_quiet(False)


class _InFile(logging.FileHandler):
    """The log file."""


def be_verbose(context: typer.Context, asked: bool) -> None:
    """The callback of --verbose."""
    if asked and not context.resilient_parsing:
        _on_terminal(logging.INFO)
        _package.setLevel(min(_package.level or logging.INFO, logging.INFO))


def be_quiet(context: typer.Context, asked: bool) -> None:
    """The callback of --quiet."""
    if asked and not context.resilient_parsing:
        from edgeoe.report.terminal import set_quiet

        _on_terminal(logging.ERROR)
        set_quiet(True)


def write_log_file(context: typer.Context, path: Path | None) -> None:
    """The callback of --log-file. Raises ConfigError where it can't be written."""
    if path is None or context.resilient_parsing:
        return
    try:
        handler = _InFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as reason:
        raise ConfigError(f"--log-file {path}: can't be written: {reason.strerror}.") from None
    handler.addFilter(lambda record: record.name.startswith("edgeoe") or record.levelno >= logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    _package.setLevel(logging.DEBUG)
    _log.debug("edgeoe %s, Python %s: %s", __version__, sys.version.split()[0], " ".join(map(quoted, sys.argv)))


def is_verbose() -> bool:
    """Whether -v was given."""
    return any(isinstance(one, _OnTerminal) and one.level <= logging.INFO for one in logging.getLogger().handlers)


def log_file() -> Path | None:
    """The file that --log-file names."""
    names = [Path(one.baseFilename) for one in logging.getLogger().handlers if isinstance(one, _InFile)]
    return names[0] if names else None


def _on_terminal(level: int) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _OnTerminal):
            handler.setLevel(level)
