"""Options that several commands share, and edgeoe.toml behind them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from edgeoe.cli.completion import complete_run
from edgeoe.cli.logs import be_quiet, be_verbose, write_log_file
from edgeoe.records.measurement import Outcome
from edgeoe.settings import Config
from edgeoe.shares import read_share

__all__ = [
    "EXIT_CODES",
    "JsonOption",
    "RunArgument",
    "everywhere",
    "next_step",
    "share",
    "typed",
]

EXIT_CODES: dict[Outcome, int] = {"passed": 0, "failed": 1, "inconclusive": 3}


def everywhere(command: Callable[..., Any], *, config: bool = True) -> Callable[..., Any]:
    """`command` with the options that every command has; with `config`, --config and what that file sets among them."""
    signature = inspect.signature(command, eval_str=True)
    common = _COMMON if config else {name: option for name, option in _COMMON.items() if name != "config"}
    defaults = {"verbose": False, "quiet": False}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=annotation)
        for name, annotation in common.items()
    ]
    parameters = [*signature.parameters.values(), *added]

    def with_common(**values: Any) -> Any:
        return command(**{name: value for name, value in values.items() if name not in common})

    with_common.__name__, with_common.__doc__ = command.__name__, command.__doc__
    with_common.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_common.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_common


def _take_defaults(context: typer.Context, path: Path | None) -> None:
    """What edgeoe.toml says becomes the defaults of this command's options; the command line wins."""
    if context.resilient_parsing:  # the shell completes a line that is not yet whole
        return
    tables = dict(_tables(context.find_root().command))
    commands = {table: {name for one in of_table for name in _options(one)} for table, of_table in tables.items()}
    paths = {name for of_table in tables.values() for one in of_table for name in _paths(one)}
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
    """(table, the commands whose options stand in it) for each command, or group of commands, that reads a file."""
    for name, command in root.commands.items():
        members = [one for one in getattr(command, "commands", {"": command}).values() if "config" in _names(one)]
        if members:
            yield name, members


def _table(context: typer.Context) -> str:
    """The table of the command that runs: its own name, or that of its group."""
    while context.parent is not None and context.parent.parent is not None:
        context = cast("typer.Context", context.parent)
    return context.info_name or ""


def _names(command: Any) -> set[str]:
    return {parameter.name for parameter in command.params}


def _options(command: Any) -> set[str]:
    """The options of a command that may stand in its table."""
    return _names(command) - {"help", *_COMMON}


def _paths(command: Any) -> set[str]:
    """Those that are paths: weights are a file, or a word."""
    hints = {
        name: str(parameter.annotation) for name, parameter in inspect.signature(command.callback).parameters.items()
    }
    return {name for name, hint in hints.items() if "Path" in hint or name == "weights"}


_COMMON: dict[str, Any] = {
    "config": Annotated[
        Path | None,
        typer.Option(
            help="Options in a file; default: ./edgeoe.toml if there is one.",
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
            help="Say more; after a bug, show the traceback.",
            callback=be_verbose,
            is_eager=True,
        ),
    ],
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Results and errors alone: no progress, no hints.",
            callback=be_quiet,
            is_eager=True,
        ),
    ],
    "log_file": Annotated[
        Path | None,
        typer.Option(
            help="Append all there is to say to this file, with times.",
            callback=write_log_file,
            is_eager=True,
            show_default=False,
        ),
    ],
}
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result record here.", show_default=False)]
RunArgument = Annotated[
    Path,
    typer.Argument(help="The run directory that compress wrote.", show_default=False, autocompletion=complete_run),
]


def typed(context: typer.Context) -> set[str]:
    """The options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def share(given: float | str) -> float:
    """What the user gave as 0.5 or 50%, as a fraction: Typer's parser of such options."""
    try:
        return read_share(given)
    except ValueError as reason:
        raise typer.BadParameter(str(reason)) from None


def next_step(command: str) -> None:
    """Say what to run next, unless only results are asked for. Names and paths in it are `quoted`."""
    from edgeoe.report.terminal import is_quiet, say

    if not is_quiet():
        say("next: ", (command, "bold"))
