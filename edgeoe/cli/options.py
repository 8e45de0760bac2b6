"""Options that several commands share, and their defaults from edgeoe.toml."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from edgeoe.cli.completion import complete_run
from edgeoe.cli.logs import be_quiet, be_verbose, write_log_file
from edgeoe.config import Config
from edgeoe.records.measurement import Outcome
from edgeoe.shares import read_share

__all__ = [
    "EXIT_CODES",
    "SIGN_EXTRA",
    "FollowLinksOption",
    "JsonOption",
    "RunArgument",
    "everywhere",
    "next_step",
    "share",
    "typed",
]

_log = logging.getLogger(__name__)
SIGN_EXTRA = "Needs pip install 'edgeoe\\[sign]'."  # in help, where [sign] alone would be markup
EXIT_CODES: dict[Outcome, int] = {"passed": 0, "failed": 1, "inconclusive": 3}


def everywhere(command: Callable[..., Any], *, config: bool | Literal["named"] = True) -> Callable[..., Any]:
    """Add the options that every command has to `command`.

    config: also add --config, whose file sets defaults; "named" reads no file unless --config names it.
    """
    signature = inspect.signature(command, eval_str=True)
    common = _COMMON if config else {name: option for name, option in _COMMON.items() if name != "config"}
    if config == "named":
        common = {**common, "config": _NAMED_CONFIG}
    defaults = {"verbose": False, "quiet": False}
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=annotation)
        for name, annotation in common.items()
    ]
    parameters = [*signature.parameters.values(), *extra]

    def with_common(**values: Any) -> Any:
        return command(**{name: value for name, value in values.items() if name not in common})

    with_common.__name__, with_common.__doc__ = command.__name__, command.__doc__
    with_common.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_common.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_common


def _take_named(context: typer.Context, path: Path | None) -> None:
    """`_take_defaults` of a file that --config names; says so if ./edgeoe.toml has settings that are not read."""
    if path is not None:
        _take_defaults(context, path)
    elif not context.resilient_parsing and Path("edgeoe.toml").is_file():
        _log.warning(
            "edgeoe.toml: not read, as limits come from the command line alone; --config edgeoe.toml would read them."
        )


def _take_defaults(context: typer.Context, path: Path | None) -> None:
    """Make the values in edgeoe.toml the defaults of this command's options; the command line takes precedence."""
    if context.resilient_parsing:  # the shell completes an unfinished line
        return
    tables = dict(_tables(context.find_root().command))
    commands = {
        table: {name for command in of_table for name in _options(command)} for table, of_table in tables.items()
    }
    paths = {name for of_table in tables.values() for command in of_table for name in _paths(command)}
    context.obj = config = Config(path, commands=commands, paths=paths)
    table = _table(context)
    parameters = {parameter.name: parameter for parameter in context.command.get_params(context)}
    options = {
        key: [value] if getattr(parameters[key], "multiple", False) and isinstance(value, str) else value
        for key, value in config.options(table).items()
        if key in parameters
    }
    context.default_map = {**(context.default_map or {}), **options}


def _tables(root: Any) -> Iterator[tuple[str, list[Any]]]:
    """(table, its commands) for each command, or group of commands, that reads a config file."""
    for name, command in root.commands.items():
        members = [
            member for member in getattr(command, "commands", {"": command}).values() if "config" in _names(member)
        ]
        if members:
            yield name, members


def _table(context: typer.Context) -> str:
    """The table of the running command: its name, or that of its group."""
    while context.parent is not None and context.parent.parent is not None:
        context = cast("typer.Context", context.parent)
    return context.info_name or ""


def _names(command: Any) -> set[str]:
    return {parameter.name for parameter in command.params}


def _options(command: Any) -> set[str]:
    """The options of a command that its table may set."""
    return _names(command) - {"help", *_COMMON}


def _paths(command: Any) -> set[str]:
    """The options of a command that are paths, and weights, which may be a file."""
    hints = {
        name: str(parameter.annotation) for name, parameter in inspect.signature(command.callback).parameters.items()
    }
    return {name for name, hint in hints.items() if "Path" in hint or name == "weights"}


_COMMON: dict[str, Any] = {
    "config": Annotated[
        Path | None,
        typer.Option(
            help="File of options; default: ./edgeoe.toml if it exists.",
            callback=_take_defaults,
            is_eager=True,
            show_default=False,
        ),
    ],
    "verbose": Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Print more; after a bug, print the traceback.",
            callback=be_verbose,
            is_eager=True,
        ),
    ],
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Print only results and errors: no progress, no hints.",
            callback=be_quiet,
            is_eager=True,
        ),
    ],
    "log_file": Annotated[
        Path | None,
        typer.Option(
            help="Append all log messages to this file, with times.",
            callback=write_log_file,
            is_eager=True,
            show_default=False,
        ),
    ],
}
FollowLinksOption = Annotated[
    bool, typer.Option("--follow-links", help="Follow links that lead out of the folder of images.")
]
_NAMED_CONFIG = Annotated[
    Path | None,
    typer.Option(
        help="File of options; without it none is read, so that nothing in the folder loosens a limit.",
        callback=_take_named,
        is_eager=True,
        show_default=False,
    ),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result to this JSON file.", show_default=False)
]
RunArgument = Annotated[
    Path,
    typer.Argument(help="The run directory that compress wrote.", show_default=False, autocompletion=complete_run),
]


def typed(context: typer.Context) -> set[str]:
    """The options that are on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def share(value: float | str) -> float:
    """Typer's parser of shares: 0.5 or 50% -> fraction."""
    try:
        return read_share(value)
    except ValueError as reason:
        raise typer.BadParameter(str(reason)) from None


def next_step(command: str) -> None:
    """Print the next command, unless --quiet. Names and paths in it are `quoted`."""
    from edgeoe.report.terminal import is_quiet, say

    if not is_quiet():
        say("next: ", (command, "bold"))
