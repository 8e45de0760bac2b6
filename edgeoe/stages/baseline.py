"""Baselines: artifacts and their results, in a folder that can be kept under version control.

    baselines/
      objects/<sha256>.onnx    artifacts by hash, so that each is stored once
      main/host-cpu.json       a baseline's result on one target

CI measures the old artifact beside the new one, instead of trusting times of another day.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgeoe.errors import ConfigError, RunError, quoted
from edgeoe.files import file_sha256, way_out, write_atomic
from edgeoe.records.result import Result
from edgeoe.registry import nearest
from edgeoe.run.result_file import read_result, write_result

__all__ = ["Baseline", "Store"]

_OBJECTS = "objects"


@dataclass(frozen=True, slots=True)
class Baseline:
    """A result on one target, with its artifact, saved under a name.

    artifact: None if only the result was available, as from a device.
    file: where the result lies.
    """

    name: str
    target: str
    result: Result
    artifact: Path | None
    file: Path


class Store:
    """The baselines in a folder.

    Raises ConfigError for a baseline that does not exist, RunError for one that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, name: str, result: Result, artifact: Path | None) -> Baseline:
        """Save a result and its artifact as baseline `name`, replacing the earlier one for that target.

        Raises RunError if the artifact or a file beside it is a link, whose content may be anybody's.
        """
        if not _may_be_a_name(name):
            raise ConfigError(f"--name takes letters, digits and . _ -, and not {_OBJECTS!r}. Got {name!r}.")
        try:
            for source, place in self._copies(result, artifact):
                write_atomic(self._place(place), partial(shutil.copyfile, source))
            write_result(self._place(self._record(name, result.target.name)), result)
        except OSError as reason:
            raise ConfigError(f"--store {self._folder}: can't be written: {reason.strerror}.") from None
        return Baseline(name, result.target.name, result, artifact, self._record(name, result.target.name))

    def find(self, name: str, target: str) -> Baseline:
        """The baseline `name` for `target`; its artifact is checked against its hash."""
        if not _may_be_a_name(name):
            raise ConfigError(f"{self._folder}: no baseline {name!r} for {target}: no name of a baseline.")
        path = self._place(self._record(name, target))
        if not path.is_file():
            names = sorted({entry.parent.name for entry in self._records()})
            targets = sorted(entry.stem for entry in self._records() if entry.parent.name == name)
            advice = f"It has {', '.join(targets)}." if targets else nearest(name, names) if names else "It is empty."
            raise ConfigError(
                f"{self._folder}: no baseline {name!r} for {target}. {advice} "
                f"Save one: edgeoe baseline save RUN --target {quoted(target)} --name {quoted(name)} "
                f"--store {quoted(self._folder)}"
            )
        result = read_result(path)
        artifact = self._place(self._object(result))
        if artifact.is_file() and file_sha256(artifact) != result.artifact_sha256:
            raise RunError(f"{artifact}: not the file that was saved. Save the baseline again.")
        return Baseline(name, target, result, artifact if artifact.is_file() else None, path)

    def __contains__(self, name: object) -> bool:
        """Whether there is a baseline called `name` for any target."""
        return isinstance(name, str) and _may_be_a_name(name) and any((self._folder / name).glob("*.json"))

    def __iter__(self) -> Iterator[Baseline]:
        for path in self._records():
            yield self.find(path.parent.name, path.stem)

    def _place(self, path: Path) -> Path:
        """`path`, which lies in the folder. Raises RunError if a link stands there or on the way."""
        if (link := way_out(self._folder, str(path.relative_to(self._folder)))) is not None:
            raise RunError(f"{link}: a link, or a path out of --store. Put a copy in place of the link.")
        return path

    def _records(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*/*.json") if path.parent.name != _OBJECTS)

    def _record(self, name: str, target: str) -> Path:
        return self._folder / name / f"{target}.json"

    def _object(self, result: Result) -> Path:
        return self._folder / _OBJECTS / f"{result.artifact_sha256}{Path(result.artifact).suffix}"

    def _copies(self, result: Result, artifact: Path | None) -> Iterator[tuple[Path, Path]]:
        """(source, destination) of the artifact and its side files, whose names begin with the artifact's."""
        if artifact is None:
            return
        place = self._object(result)
        for source in sorted(artifact.parent.glob(f"{artifact.name}*")):
            if source.is_symlink() or not source.is_file():
                raise RunError(f"{source}: a link, or no plain file. A baseline keeps copies of plain files only.")
            yield source, place.with_name(place.name + source.name.removeprefix(artifact.name))


def _may_be_a_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) is not None and text != _OBJECTS
