"""Options that several commands share, and edgeoe.toml behind them."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from edgeoe.errors import ConfigError
from edgeoe.records import Outcome, to_json
from edgeoe.settings import CompressSettings, Config, PreprocessSettings, weights_from_text

__all__ = [
    "EXIT_CODES",
    "ConfigOption",
    "JsonOption",
    "RunArgument",
    "next_step",
    "preprocess_settings",
    "takes_settings",
    "write_json",
]

EXIT_CODES: dict[Outcome, int] = {"passed": 0, "failed": 1, "inconclusive": 3}
_GOALS = ("keep_macs", "keep_params", "keep_blocks")  # of which a student has one
_PATHS = ("weights", "samples", "list", "ood", "out", "run", "test", "json", "junit", "markdown", "store", "folder")


def _config(context: typer.Context, path: Path | None) -> Config:
    group: Any = context.parent.command if context.parent else context.command
    commands = {
        name: [parameter.name for parameter in command.params if parameter.name not in ("help", "config")]
        for name, command in getattr(group, "commands", {}).items()
        if any(parameter.name == "config" for parameter in getattr(command, "params", ()))
    }
    return Config(path, commands=commands, paths=_PATHS)


def _take_defaults(context: typer.Context, path: Path | None) -> Path | None:
    """What edgeoe.toml says becomes the defaults of this command's options; the command line wins."""
    config = _config(context, path)
    context.default_map = {**(context.default_map or {}), **config.options(context.info_name or "")}
    return config.path


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="Options in a file; default: ./edgeoe.toml if there is one.",
        callback=_take_defaults,
        is_eager=True,
        show_default=False,
    ),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result record here.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="The run directory that compress wrote.", show_default=False)]


def preprocess_settings(context: typer.Context, path: Path | None) -> PreprocessSettings:
    """[preprocess] of the edgeoe.toml that --config names, or that is here."""
    return _config(context, path).preprocess


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
        config = _config(context, values["config"])
        if any(_is_typed(context, name) for name in _GOALS):  # the file's other goal, if any, gives way
            values |= {name: None for name in _GOALS if not _is_typed(context, name)}
        if values["weights"] is not None:
            values["weights"] = weights_from_text(values["weights"])
        settings = CompressSettings(
            **{f.name: values.pop(f.name) for f in fields},
            preprocess=config.preprocess,
            oe_settings=config.oe,
        )
        return command(settings=settings, **values)

    with_settings.__doc__ = command.__doc__
    with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_settings


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether that option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _option(field: dataclasses.Field[Any], hint: Any) -> Any:
    """The Typer annotation of one setting: bounds are checked by CompressSettings, not by Typer."""
    plain = [part for part in get_args(hint) if part is not type(None)] if type(None) in get_args(hint) else [hint]
    kind = get_args(plain[0])[0] if get_origin(plain[0]) is Annotated else plain[0]
    extra: dict[str, Any] = {"help": field.metadata["help"], "show_default": field.default is not None}
    if get_origin(kind) is tuple:
        return Annotated[list[str], typer.Option(**extra | {"show_default": False})]
    if len(plain) > 1:  # a file or a word: weights_from_text tells which
        extra["metavar"], kind = "FILE|random", str
    if get_origin(kind) is Literal:
        extra["metavar"] = "|".join(get_args(kind))
        kind = str
    return Annotated[kind | None if field.default is None else kind, typer.Option(**extra)]


def write_json(path: Path | None, record: Any) -> None:
    """Write `record` to `path`, if the user asked for it."""
    if path is not None:
        from edgeoe.run import write_atomic

        text = json.dumps(to_json(record), indent=2) + "\n"
        try:
            write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except OSError as reason:
            raise ConfigError(f"--json {path}: can't be written: {reason.strerror}.") from None


def next_step(command: str) -> None:
    """Say what to run next."""
    from edgeoe.report.terminal import say

    say("next: ", (command, "bold"))
