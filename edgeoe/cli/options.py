"""Options that several commands share, and edgeoe.toml behind them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import typer

from edgeoe.cli.completion import complete_method, complete_run, complete_target
from edgeoe.cli.logs import be_quiet, be_verbose, write_log_file
from edgeoe.records.measurement import Outcome
from edgeoe.settings import CompressSettings, Config, superseded, weights_from_text
from edgeoe.shares import is_share, read_share

__all__ = [
    "EXIT_CODES",
    "JsonOption",
    "RunArgument",
    "everywhere",
    "next_step",
    "share",
    "takes_settings",
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
    own = _options(context.command)
    several = {parameter.name for parameter in context.command.params if getattr(parameter, "multiple", False)}
    options = {
        key: [value] if key in several and isinstance(value, str) else value
        for key, value in config.options(table).items()
        if key in own
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
_METAVARS = {"classes": "NAMES", "target": "NAME"}
_COMPLETED = {"method": complete_method, "target": complete_target}
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result record here.", show_default=False)]
RunArgument = Annotated[
    Path,
    typer.Argument(help="The run directory that compress wrote.", show_default=False, autocompletion=complete_run),
]


def typed(context: typer.Context) -> set[str]:
    """The options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def takes_settings(command: Callable[..., int]) -> Callable[..., int]:
    """Give `command(*, settings, ...)` one option for every field of CompressSettings instead of `settings`."""
    hints = get_type_hints(CompressSettings, include_extras=True)
    fields = [f for f in dataclasses.fields(CompressSettings) if "help" in f.metadata]
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"]
    options = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default,
            annotation=_option(f, hints[f.name]),
        )
        for f in fields
    ]
    parameters = sorted([*options, *own], key=lambda p: p.default is not inspect.Parameter.empty)

    def with_settings(**values: Any) -> int:
        context = values["context"]
        from_file = context.default_map or {}
        values |= dict.fromkeys(superseded(typed(context), from_file))  # what the file says of them gives way
        if values["weights"] is not None:
            values["weights"] = weights_from_text(values["weights"])
        settings = CompressSettings(
            **{f.name: values.pop(f.name) for f in fields},
            preprocess=context.obj.preprocess,
            oe_settings=context.obj.oe,
        )
        return command(settings=settings, **values)

    with_settings.__doc__ = command.__doc__
    with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_settings


def _option(field: dataclasses.Field[Any], hint: Any) -> Any:
    """The Typer annotation of one setting: bounds are checked by CompressSettings, not by Typer."""
    plain = [part for part in get_args(hint) if part is not type(None)] if type(None) in get_args(hint) else [hint]
    kind = get_args(plain[0])[0] if get_origin(plain[0]) is Annotated else plain[0]
    extra: dict[str, Any] = {"help": field.metadata["help"], "show_default": field.default is not None}
    if field.name in _COMPLETED:
        extra["autocompletion"] = _COMPLETED[field.name]
    if get_origin(kind) is tuple:
        extra |= {"show_default": bool(field.default), "metavar": _METAVARS.get(field.name, "GLOB")}
        return Annotated[list[str], typer.Option(**extra)]
    if len(plain) > 1:  # a file or a word: weights_from_text tells which
        extra["metavar"], kind = "FILE|random", str
    if is_share(hint):
        extra |= {"metavar": "SHARE", "parser": share}
    if get_origin(kind) is Literal:
        extra["metavar"] = "|".join(get_args(kind))
        kind = str
    return Annotated[kind | None if field.default is None else kind, typer.Option(**extra)]


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
