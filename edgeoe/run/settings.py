"""Settings of a finished run."""

from __future__ import annotations

from edgeoe.errors import ConfigError, RunError
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.settings import CompressSettings
from edgeoe.toml_document import TomlDocument

__all__ = ["run_settings"]


def run_settings(run: Run) -> CompressSettings:
    """Read the settings of `run`, with absolute paths.

    Raises RunError if their file is missing, was changed, or was written by an incompatible version of edgeoe.
    """
    config = run.file(layout.CONFIG)
    try:
        return CompressSettings.from_toml(TomlDocument(config, error=RunError).tables)
    except ConfigError as reason:
        raise RunError(f"{config}: {reason} Make the run again: edgeoe compress") from None
