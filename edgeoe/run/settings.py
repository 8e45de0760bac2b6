"""Settings of a finished run: config.toml names files, paths.toml has the folders that they lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from edgeoe.errors import ConfigError, RunError
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.layout import File
from edgeoe.settings import CompressSettings
from edgeoe.toml_document import TomlDocument

__all__ = ["run_settings", "strip_settings", "write_settings"]

_TABLE = "compress"  # only it has paths
_NO_PATHS = frozenset({"classes", "include", "exclude"})


def write_settings(run: Run, settings: CompressSettings) -> None:
    """Write `settings` into `run`: config.toml with names of files and folders, paths.toml with their full paths."""
    tables = settings.to_toml()
    table = tables[_TABLE]
    shown = {name: _without_folders(name, value) for name, value in table.items()}
    _write(run, layout.CONFIG, {**tables, _TABLE: shown})
    _write(run, layout.PATHS, {_TABLE: {name: value for name, value in table.items() if shown[name] != value}})


def run_settings(run: Run) -> CompressSettings:
    """Read the settings of `run`, with absolute paths.

    Raises RunError if one of their files is missing, was changed, or was written by an incompatible version of edgeoe.
    """
    config, tables, paths = run.file(layout.CONFIG), _read(run, layout.CONFIG), _read(run, layout.PATHS)
    try:
        return CompressSettings.from_toml({**tables, _TABLE: {**tables.get(_TABLE, {}), **paths.get(_TABLE, {})}})
    except ConfigError as reason:
        raise RunError(f"{config}: {reason} Make the run again: edgeoe compress") from None


def strip_settings(run: Run, *, rename_classes: bool) -> None:
    """Remove the names of files and folders that paths.toml has from config.toml.

    rename_classes: number the classes, too.
    """
    tables = _read(run, layout.CONFIG)
    paths = _read(run, layout.PATHS).get(_TABLE, {}) if run.has(layout.PATHS) else {}
    table = {name: value for name, value in tables[_TABLE].items() if name not in paths or isinstance(value, list)}
    if "target" in paths:
        table["target"] = [Path(name).stem if name.endswith(".toml") else name for name in table["target"]]
    if rename_classes and "classes" in table:
        table["classes"] = [f"class {k}" for k in range(len(table["classes"]))]
    _write(run, layout.CONFIG, {**tables, _TABLE: table})


def _without_folders(name: str, value: Any) -> Any:
    """`value` of the setting `name`, in which each absolute path is reduced to the name of its file or folder."""
    if name in _NO_PATHS:
        return value
    return [_base_name(one) for one in value] if isinstance(value, list) else _base_name(value)


def _base_name(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _read(run: Run, file: File) -> dict[str, Any]:
    return TomlDocument(run.file(file), error=RunError).tables


def _write(run: Run, file: File, tables: dict[str, Any]) -> None:
    run.write(file, lambda path: path.write_text(tomli_w.dumps(tables), encoding="utf-8"))
