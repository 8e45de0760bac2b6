"""edgeoe.toml, which may hold every option of every command."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edgeoe.class_names import names_a_file
from edgeoe.conversions import with_home
from edgeoe.errors import ConfigError
from edgeoe.method import method_options
from edgeoe.registry import METHODS
from edgeoe.settings import OESettings, PreprocessSettings, setting_names
from edgeoe.toml_document import TomlDocument

__all__ = ["Config", "superseded", "unused_options"]

_OF_A_RUN, _PATHS, _STRIPPED = "config.toml", "paths.toml", "stripped.json"


class Config:
    """An edgeoe.toml: one table a command, and [preprocess] and [oe].

    path: the file; None is ./edgeoe.toml where there is one, else no settings at all. The config.toml of a run names
        files alone: its paths are those of the paths.toml beside it.
    commands: the options of each table, so that an unknown key is refused by file and line.
    paths: those options that are paths; relative ones are taken from the file's own folder, and ~ is the home folder.
    """

    def __init__(self, path: Path | None, *, commands: Mapping[str, Collection[str]], paths: Collection[str]) -> None:
        default = Path("edgeoe.toml")
        self.path = path if path is not None else default if default.is_file() else None
        self._document = TomlDocument(self.path, error=ConfigError) if self.path else None
        self._paths = paths
        beside = self.path.with_name(_PATHS) if self.path and self.path.name == _OF_A_RUN else None
        self._full_paths = TomlDocument(beside, error=ConfigError) if beside and beside.is_file() else None
        if self._document is not None:
            self._document.refuse_unknown("", self._document.tables, [*commands, "preprocess", "oe"])
            for command, options in commands.items():
                table = self._document.table(command)
                if command in _STUDENT and not table.keys() <= {*options}:
                    options = {*options, *method_options()}  # those of other distributions' methods, too
                self._document.refuse_unknown(command, table, options)

    @property
    def is_stripped(self) -> bool:
        """Whether the file is of a run whose paths `edgeoe run strip` has removed."""
        if self.path is None or self.path.name != _OF_A_RUN or self._full_paths is not None:
            return False
        return self.path.with_name(_STRIPPED).is_file()

    @property
    def preprocess(self) -> PreprocessSettings:
        """`[preprocess]`."""
        return self._document.record("preprocess", PreprocessSettings) if self._document else PreprocessSettings()

    @property
    def oe(self) -> OESettings:
        """`[oe]`."""
        return self._document.record("oe", OESettings) if self._document else OESettings()

    def options(self, command: str) -> dict[str, Any]:
        """The options that `[command]` sets; deploy, latency-table and inspect also take from [compress] what makes a
        student.

        Not the target of inspect: to that, a target is where latencies are measured, and it may go without.
        """
        given = self._table(command)
        if command not in ("deploy", "inspect", "latency-table"):
            return given
        settings = {*setting_names(), *method_options()}
        if command == "inspect":
            settings.remove("target")
        shared = {key: value for key, value in self._table("compress").items() if key in settings}
        return {key: value for key, value in shared.items() if key not in superseded(given, shared)} | given

    def _table(self, command: str) -> dict[str, Any]:
        if self._document is None or self.path is None:
            return {}
        full_paths = self._full_paths.table(command) if self._full_paths else {}
        table = {**self._document.table(command), **full_paths}
        return {key: self._anchored(key, value) for key, value in table.items()}

    def _anchored(self, key: str, value: Any) -> Any:
        """`value` of option `key`, a relative path in it taken from this file's folder."""
        if key == "classes" and self.path is not None and not isinstance(value, list):  # a file, names, or a number
            is_file = isinstance(value, str) and names_a_file(value, folder=self.path.parent)
            return [str(self.path.parent / value) if is_file else str(value)]
        if key == "classes":
            return value
        if isinstance(value, list):
            return [self._anchored(key, item) for item in value]
        if key == "weights" and value == "random":
            return value
        is_path = key in self._paths or (key == "teacher" and ".py:" in str(value)) or str(value).endswith(".toml")
        if not is_path or not isinstance(value, str) or self.path is None:
            return value
        anchored = str(self.path.parent / with_home(value))
        return f"./{anchored}" if anchored == "random" else anchored  # which alone would be no file


_STUDENT = frozenset({"compress", "deploy", "latency-table"})  # commands that take every setting
_GOALS = frozenset({"keep_macs", "keep_params", "keep_blocks", "latency_ms", "speedup"})  # of which a student has one


def superseded(given: Mapping[str, Any], further: Mapping[str, Any]) -> set[str]:
    """The options that make way for those `given` nearer to the user.

    Those are another goal, the weights of another teacher, and what another method does not use: a file may serve
    several methods.
    further: the options that are set further from the user; without a teacher among them, weights there are for any.
    """
    gone = set(_GOALS) if _GOALS & set(given) else set()
    if "teacher" in given and "teacher" in further:
        gone |= {"weights", "weights_key"}
    return (gone | unused_options(given, further)) - set(given)


def unused_options(given: Mapping[str, Any], further: Mapping[str, Any]) -> set[str]:
    """The options of other methods among `further` that the method among `given` does not use."""
    if given.get("method") not in METHODS:
        return set()
    return (further.keys() & method_options()) - method_options([given["method"]]).keys() - given.keys()
