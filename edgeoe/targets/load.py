"""Loading and checking of profiles: targets/<name>.toml -> Target."""

from __future__ import annotations

import dataclasses
import logging
from functools import cache
from pathlib import Path
from typing import Any

from edgeoe.codec import to_json
from edgeoe.errors import TargetError
from edgeoe.registry import QUANTITIES, nearest
from edgeoe.targets.address_book import read_address_book
from edgeoe.targets.backends import known_backends
from edgeoe.targets.limits import unknown_names, unsupported_precision, unsupported_settings
from edgeoe.targets.profile import Budget, DeviceFacts, EngineSettings, MeasureSettings, RuntimeSettings, Target
from edgeoe.toml_document import TomlDocument

__all__ = ["check_target", "find_target", "find_targets", "load_target"]

_log = logging.getLogger(__name__)
_TABLES = {
    "device": DeviceFacts,
    "runtime": RuntimeSettings,
    "engine": EngineSettings,
    "measure": MeasureSettings,
}


def _folders() -> tuple[Path, ...]:
    """The folders of profiles: the user's ./targets first, then those that edgeoe ships."""
    package = Path(__file__).parents[1]
    shipped = package / "profiles"  # in a wheel; a source checkout has them beside the package
    return Path("targets"), shipped if shipped.is_dir() else package.parent / "targets"


def find_targets() -> dict[str, Path]:
    """The file of every profile, by name; a user's profile hides the shipped one of the same name."""
    profiles: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.toml")):
            profiles.setdefault(path.stem, path)
    return dict(sorted(profiles.items()))


def find_target(name: str) -> Path:
    """The file of the profile `name`, which may also be a path to a .toml file.

    Raises TargetError for an unknown name.
    """
    if name.endswith(".toml"):
        return Path(name)
    profiles = find_targets()
    if name not in profiles:
        known = [*profiles, *read_address_book()]
        raise TargetError(f"unknown target {name!r}. {nearest(name, known)} Your own go into ./targets/<name>.toml.")
    path, (own, shipped) = profiles[name], _folders()
    if path.parent == own and (shipped / path.name).is_file() and own.resolve() != shipped.resolve():
        _say_hidden(path.resolve())
    return path


@cache
def _say_hidden(path: Path) -> None:
    """Log, once, that the profile `path` hides one that edgeoe ships."""
    _log.warning("%s is the profile that counts, and hides %s of edgeoe", path, path.stem)


def load_target(name: str) -> Target:
    """The profile `name`, which may also be a path to a .toml file, with keys and types checked.

    A device of the address book is a target of its own name, with the profile that describes it.
    Raises TargetError with file and line.
    """
    if not name.endswith(".toml") and name not in find_targets() and (device := read_address_book().get(name)):
        return dataclasses.replace(_target(_document(device.target)), name=name)
    return _target(_document(name))


def _document(name: str) -> TomlDocument:
    return TomlDocument(find_target(name), error=TargetError)


def check_target(name: str) -> list[str]:
    """The issues of the profile `name`, each with file and line: keys and types, then unsupported settings."""
    document = _document(name)
    try:
        issue = unsupported_precision(document.tables.get("precision"), document.record("device", DeviceFacts))
        if issue:  # before unknown names: on a device that lacks fp8, that is the better reason
            raise document.complain(issue.table, issue.key, issue.message)
        target = _target(document)
    except TargetError as reason:
        return [str(reason)]
    issues = sorted(unsupported_settings(target, document.tables), key=lambda each: document.line(each.table, each.key))
    return [str(document.complain(each.table, each.key, each.message)) for each in issues]


def _target(document: TomlDocument) -> Target:
    fields = [field.name for field in dataclasses.fields(Target) if field.name not in ("name", "options")]
    options = {name: traits.options for name, traits in known_backends().items() if traits.options}
    document.refuse_unknown("", document.tables, [*fields, *options])
    parts: dict[str, Any] = {table: document.record(table, kind) for table, kind in _TABLES.items()}
    top = {key: value for key, value in document.tables.items() if key not in {*_TABLES, *options, "budget"}}
    target = dataclasses.replace(document.record("", Target, {**top, "name": document.path.stem}), **parts)
    target = dataclasses.replace(target, budget=_budget(document))
    for issue in unknown_names(target):
        raise document.complain(issue.table, issue.key, issue.message)
    if kind := options.get(target.backend):
        return dataclasses.replace(target, options=to_json(document.record(target.backend, kind)))
    return target


def _budget(document: TomlDocument) -> Budget:
    table = document.table("budget")
    document.refuse_unknown("budget", table, list(QUANTITIES))
    limits = dataclasses.make_dataclass("Limits", [(name, QUANTITIES.load(name).bounds) for name in table])
    return Budget(**dataclasses.asdict(document.record("budget", limits)))
