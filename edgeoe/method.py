"""A method as tables, settings and the command line know it: its cut, its recovery and its options, by name.

Nothing that a row of METHODS leads to imports torch, so that `edgeoe compress -h` is quick and needs no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from edgeoe.errors import ConfigError
from edgeoe.registry import METHODS

__all__ = ["About", "Method", "MethodOption", "load_method", "method_options", "not_used", "option", "option_records"]


def option(help: str, default: Any = dataclasses.MISSING) -> Any:  # noqa: A002 - as Typer calls it
    """A dataclass field that is also a command-line option with this help."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class About:
    """What `edgeoe methods` says of a method."""

    does: str
    needs: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A named pair: what is pruned, and what the student then imitates.

    cut, recovery: "module:Class" of an `edgeoe.methods.Cut` and of an `edgeoe.methods.Recovery`.
    options: the classes whose fields the cut and the recovery take as options, each once. A field is a number, a text,
        a Literal or a boolean, with a default and a help text: see `option`.
    keeps: the share of the MACs that is kept where the user names none.
    to_budget: the units that a budget may prune instead of the cut; empty if the method prunes nothing.
    spares_features: the recovery compares the features that the head reads, which must stay as many.
    trains: the recovery trains by gradients.
    """

    about: About
    cut: str
    recovery: str
    options: tuple[type, ...] = ()
    keeps: float = 0.5
    to_budget: frozenset[Literal["channels", "blocks"]] = frozenset({"channels", "blocks"})
    spares_features: bool = False
    trains: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOption:
    """An option that some methods take.

    kind: its type, with bounds.
    defaults: by method.
    """

    name: str
    kind: Any
    about: str
    defaults: Mapping[str, Any]

    @property
    def help(self) -> str:
        """What it is, for which methods, and its default there."""
        by_default: dict[Any, list[str]] = {}
        for method, default in self.defaults.items():
            by_default.setdefault(default, []).append(method)
        parts = [f"{', '.join(methods)} (default: {default})" for default, methods in by_default.items()]
        return f"{self.about} For {'; '.join(parts)}."


def load_method(name: str) -> Method:
    """The method called `name`.

    Raises ConfigError if there is none, its distribution is broken, or an option of it is of another type than the same
    option of a method of edgeoe.
    """
    method = METHODS.load(name)
    if not isinstance(method, Method):
        raise ConfigError(
            f"method {name!r} of {METHODS.distribution(name)}: {METHODS[name]} is no edgeoe.method.Method."
        )
    if name not in METHODS.built_in:
        known = method_options(METHODS.built_in)
        for option, kind in _kinds(method):
            if option in known and known[option].kind != kind:
                raise ConfigError(
                    f"method {name!r} of {METHODS.distribution(name)}: its option {option!r} is of another type than "
                    f"that of {', '.join(known[option].defaults)}."
                )
    return method


def method_options(names: Iterable[str] | None = None) -> dict[str, MethodOption]:
    """Every option that a method takes, by name.

    names: methods; None is all. One that can't be loaded is left out: it is an error only where it is asked for.
    """
    options: dict[str, MethodOption] = {}
    for name in METHODS if names is None else names:
        try:
            method = load_method(name)
        except ConfigError:
            continue
        kinds = dict(_kinds(method))
        for one in (one for record in method.options for one in dataclasses.fields(record)):
            known = options.get(one.name)
            options[one.name] = MethodOption(
                name=one.name,
                kind=known.kind if known else kinds[one.name],
                about=known.about if known else one.metadata["help"],
                defaults={**(known.defaults if known else {}), name: one.default},
            )
    return options


def _kinds(method: Method) -> Iterator[tuple[str, Any]]:
    """(option, type) of each option of `method`."""
    for record in method.options:
        hints = get_type_hints(record, include_extras=True)
        yield from ((one.name, hints[one.name]) for one in dataclasses.fields(record))


def option_records(method: str, given: Mapping[str, Any] | Iterable[object]) -> tuple[object, ...]:
    """The options `given` to `method`, as records, those that hold nothing but defaults left out.

    given: by name, or records.
    Raises ConfigError for an option that `method` does not take.
    """
    kinds = load_method(method).options
    values = given if isinstance(given, Mapping) else dict(_changed(given))
    fields = {one.name for kind in kinds for one in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise ConfigError(not_used(name, method))
    records = (
        kind(**{one.name: values[one.name] for one in dataclasses.fields(kind) if one.name in values}) for kind in kinds
    )
    return tuple(record for record in records if record != type(record)())


def _changed(records: Iterable[object]) -> Iterator[tuple[str, Any]]:
    """(option, value) of what is not the default in option records."""
    for record in records:
        for one in dataclasses.fields(record):  # type: ignore[arg-type]
            if getattr(record, one.name) != one.default:
                yield one.name, getattr(record, one.name)


def not_used(name: str, method: str) -> str:
    """The message that option `name` was given and `method` does not take it."""
    shown, options = "--" + name.replace("_", "-"), method_options()
    if name not in options:
        return f"{shown} is an option of no method."
    return f"{shown} is for {', '.join(options[name].defaults)}; --method {method} does not use it."
