"""The settings of compress as options of a command: those of CompressSettings, and those of methods."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from edgeoe.cli.completion import complete_method, complete_target
from edgeoe.cli.options import share, typed
from edgeoe.config import superseded, unused_options
from edgeoe.method import MethodOption, method_options
from edgeoe.registry import METHODS
from edgeoe.settings import CompressSettings, setting_names, weights_from_text
from edgeoe.shares import is_share

__all__ = ["SettingsCommand", "takes_settings"]

_METAVARS = {"classes": "NAMES", "target": "NAME"}
_COMPLETED = {"method": complete_method, "target": complete_target}
_BUILT_IN = method_options(METHODS.built_in)
_log = logging.getLogger(__name__)


def takes_settings(command: Callable[..., int]) -> Callable[..., int]:
    """Give `command(*, settings, ...)` an option for every setting and every option of a method instead of `settings`.

    The options of methods that other distributions add come with `SettingsCommand`.
    """
    others = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"]
    parameters = sorted([*_settings(), *others], key=lambda p: p.default is not inspect.Parameter.empty)

    def with_settings(**values: Any) -> int:
        context = values["context"]
        given = {name: context.params[name] for name in typed(context)}
        values = {**_of_methods(context.params), **values}
        values |= dict.fromkeys(superseded(given, context.default_map or {}))  # what the file says of them gives way
        if values["weights"] is not None:
            values["weights"] = weights_from_text(values["weights"])
        options = {name: values.pop(name) for name in _of_methods(values)}
        settings = CompressSettings(
            **{name: values.pop(name) for name in setting_names()},
            options={name: value for name, value in options.items() if value is not None},
            preprocess=context.obj.preprocess,
            oe_settings=context.obj.oe,
        )
        if unused := unused_options(given, context.default_map or {}):
            _log.warning("--method %s does not use %s of the file", settings.method, ", ".join(sorted(unused)))
        return command(settings=settings, **values)

    with_settings.__doc__ = command.__doc__
    with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_settings


class SettingsCommand(TyperCommand):
    """A command with the options of methods that other distributions add, which are looked up when it is parsed."""

    def get_params(self, ctx: Any) -> Any:
        *params, help_option = super().get_params(ctx)
        return [*params, *_added(frozenset(param.name for param in params)), help_option]

    def invoke(self, ctx: Any) -> Any:
        """Call the command with its own parameters; the others are in the context's."""
        names = {param.name for param in self.params}
        return ctx.invoke(self.callback, **{name: value for name, value in ctx.params.items() if name in names})


def _of_methods(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values`, parameters by name, that are options of methods."""
    names = method_options()
    return {name: value for name, value in values.items() if name in names}


def _added(taken: frozenset[str]) -> list[Any]:
    """The options of other distributions' methods; one whose name is `taken` is left out with a warning."""
    added = {name: one for name, one in method_options().items() if name not in _BUILT_IN}
    for name in added.keys() & taken:
        methods = ", ".join(added[name].defaults)
        _log.warning("option %r of method %s is not offered: every command has another of that name", name, methods)
    return _parsers([_of_method(one) for name, one in added.items() if name not in taken])


def _parsers(parameters: Iterable[inspect.Parameter]) -> list[Any]:
    """What Typer makes of `parameters`."""

    def command() -> None: ...

    command.__signature__ = inspect.Signature([*parameters])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return [*typer.main.get_command(app).params]


def _settings() -> Iterable[inspect.Parameter]:
    """An option for each setting, those of edgeoe's own methods after the method."""
    hints = get_type_hints(CompressSettings, include_extras=True)
    for field in dataclasses.fields(CompressSettings):
        if "help" in field.metadata:
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            annotation = _option(field.name, hints[field.name], field.metadata["help"], field.default)
            yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        if field.name == "method":
            yield from map(_of_method, _BUILT_IN.values())


def _of_method(one: MethodOption) -> inspect.Parameter:
    """An option that is None unless it is given: its default depends on the method."""
    annotation = _option(one.name, one.kind, one.help, None)
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option(name: str, hint: Any, about: str, default: Any) -> Any:
    """The Typer annotation of one setting: bounds are checked by CompressSettings, not by Typer."""
    plain = [part for part in get_args(hint) if part is not type(None)] if type(None) in get_args(hint) else [hint]
    kind = get_args(plain[0])[0] if get_origin(plain[0]) is Annotated else plain[0]
    text = about.replace("[", "\\[")  # else a table such as [budget] is taken for markup, and not shown
    extra: dict[str, Any] = {"help": text, "show_default": default is not None}
    if name in _COMPLETED:
        extra["autocompletion"] = _COMPLETED[name]
    if get_origin(kind) is tuple:
        extra |= {"show_default": bool(default), "metavar": _METAVARS.get(name, "GLOB")}
        return Annotated[list[str], typer.Option(**extra)]
    if len(plain) > 1:  # a file or a word: weights_from_text tells which
        extra["metavar"], kind = "FILE|random", str
    if is_share(hint):
        extra |= {"metavar": "SHARE", "parser": share}
    if get_origin(kind) is Literal:
        extra["metavar"] = "|".join(get_args(kind))
        kind = str
    return Annotated[kind | None if default is None else kind, typer.Option(**extra)]
