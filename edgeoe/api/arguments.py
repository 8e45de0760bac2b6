"""What the functions of `import edgeoe` are given, which may be loose, as the strict types that they call.

A path may be text, a tuple a list, settings a dict, a run its folder, a target the name of its profile. Work shows its
progress in a terminal or a notebook.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeoe.errors import ConfigError
from edgeoe.method import method_options
from edgeoe.progress import Progress, silent
from edgeoe.registry import nearest
from edgeoe.settings import CompressSettings

if TYPE_CHECKING:
    from torch import nn

    from edgeoe.run.directory import Run
    from edgeoe.targets.profile import Target

__all__ = [
    "OWN_WEIGHTS",
    "Text",
    "load_target",
    "names_of",
    "run_from",
    "settings_from",
    "shown",
    "targets_from",
    "texts_from",
]

Text = str | os.PathLike[str]  # a path, or a name
OWN_WEIGHTS = "--weights: a network in memory has its own weights. Leave --weights and --weights-key out."


def load_target(target: Target | Text) -> Target:
    """The profile of a device, every key and type checked.

    target: its name, as `edgeoe targets list` shows it, the path of a .toml file, or the profile itself.
    Raises TargetError, with file and line.
    """
    from edgeoe.targets.load import load_target as load_profile

    return load_profile(os.fspath(target)) if isinstance(target, (str, os.PathLike)) else target


def settings_from(
    settings: CompressSettings | Mapping[str, Any] | None, teacher: str | nn.Module | None, given: Mapping[str, Any]
) -> tuple[CompressSettings, nn.Module | None]:
    """What is given in whichever way as settings, and the teacher where it is a network."""
    given = {**(settings if isinstance(settings, Mapping) else {}), **given}
    teacher = given.pop("teacher", None) if teacher is None else teacher
    fields, options = {field.name for field in dataclasses.fields(CompressSettings)}, method_options()
    for name in given:
        if name not in fields and name not in options:
            raise ConfigError(f"{name}: no such argument. {nearest(name, [*fields, *options])}")
    of_method = {name: given.pop(name) for name in [*given] if name not in fields}
    if of_method:
        earlier = given.get("options", settings.options if isinstance(settings, CompressSettings) else {})
        given["options"] = {**_by_name(earlier), **of_method}
    module = None if teacher is None or isinstance(teacher, str) else teacher
    named: dict[str, Any] = {} if teacher is None else {"teacher": teacher}
    if module is not None:
        from edgeoe.models.in_memory import fingerprint

        named["teacher"] = fingerprint(module)
    if isinstance(settings, CompressSettings):
        strict = dataclasses.replace(settings, **named, **given)
    else:
        given = {**given, **named}
        for name in ("teacher", "samples"):
            if name not in given:
                raise ConfigError(f"{name} is missing.")
        strict = CompressSettings(**given)
    if module is not None and (strict.weights is not None or strict.weights_key is not None):
        raise ConfigError(OWN_WEIGHTS)
    return strict, module


def _by_name(options: Mapping[str, Any] | tuple[Any, ...]) -> Mapping[str, Any]:
    """Options of a method, given by name or as records, by name."""
    if isinstance(options, Mapping):
        return options
    return {name: value for record in options for name, value in dataclasses.asdict(record).items()}


def run_from(run: Run | Text) -> Run:
    from edgeoe.run.directory import Run

    return Run.open(os.fspath(run)) if isinstance(run, (str, os.PathLike)) else run


def targets_from(target: Target | Text | Sequence[Target | Text]) -> tuple[Target, ...]:
    several = target if isinstance(target, Sequence) and not isinstance(target, str) else (target,)
    return tuple(load_target(one) for one in several)


def names_of(target: Target | Text | Sequence[Target | Text]) -> tuple[str, ...]:
    """What settings call those targets: a profile's file by its path, so that it is found again."""
    several = target if isinstance(target, Sequence) and not isinstance(target, str) else (target,)
    return tuple(os.fspath(one) if isinstance(one, (str, os.PathLike)) else one.name for one in several)


def texts_from(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def shown(progress: Progress | None) -> Progress:
    """`progress`, or what fits where this runs: bars in a terminal or a notebook, nothing elsewhere."""
    from edgeoe.report.terminal import bar, shows_bars

    return progress or (bar if shows_bars() else silent)
