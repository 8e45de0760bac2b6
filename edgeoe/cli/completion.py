"""Shell completion of profiles, devices, methods and runs, with light imports only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edgeoe.conversions import with_home
from edgeoe.registry import METHODS

__all__ = ["complete_device", "complete_method", "complete_run", "complete_target"]

_DEPTH = 3  # of folders below the typed one, as in runs/july/a


def complete_device(incomplete: str) -> list[str]:
    """Names of the user's devices."""
    from edgeoe.targets.address_book import read_address_book

    with suppress(Exception):  # a damaged file is the command's to report
        return [name for name in read_address_book() if name.startswith(incomplete)]
    return []


def complete_method(incomplete: str) -> list[str]:
    """Names of methods."""
    return [name for name in METHODS if name.startswith(incomplete)]


def complete_target(incomplete: str) -> list[str]:
    """Names of profiles."""
    from edgeoe.targets.load import find_targets

    return [name for name in find_targets() if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Runs below the folder that has been typed so far."""
    parent, slash, prefix = incomplete.rpartition("/")
    folder = Path(with_home(parent + slash) or ".")
    names = (run.relative_to(folder).as_posix() for run in _runs(folder, _DEPTH))
    return sorted(f"{parent}{slash}{name}" for name in names if name.startswith(prefix))


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    with suppress(OSError):  # a folder that may not be read
        for path in folder.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            if (path / "manifest.json").is_file():
                yield path
            elif depth > 1:
                yield from _runs(path, depth - 1)
