"""The two sides of a comparison: what the user names, and what is at hand for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeoe.backends.onnx_file import read_onnx
from edgeoe.codec import from_json, json_from
from edgeoe.errors import ConfigError, RunError
from edgeoe.files import file_sha256
from edgeoe.records.result import Predictions, Result
from edgeoe.run import layout
from edgeoe.run.chain import require_links
from edgeoe.run.directory import Run
from edgeoe.run.result_file import artifact_of, read_result
from edgeoe.stages.baseline import Store
from edgeoe.targets.backends import traits_of
from edgeoe.targets.profile import Target

__all__ = ["Side", "Tested", "classes_of", "find_side", "is_artifact_of", "noted", "rare_of", "unchanged_sides"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two sides of a comparison.

    name: as the user calls it.
    artifact: None if only the result is available.
    result: its earlier measurement; None if there is none.
    run: the run that it was found in; None for other sides.
    file: where the result lies; None without one.
    """

    name: str
    artifact: Path | None
    result: Result | None
    run: Run | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Tested:
    """Predictions of base and new for the same images.

    classes: names of the classes, as base has them.
    rare: indices of the classes that base has the fewest labelled samples of.
    """

    base: Predictions
    new: Predictions
    classes: tuple[str, ...]
    rare: tuple[int, ...]


@contextmanager
def unchanged_sides(*texts: str) -> Iterator[None]:
    """A block in which no other command changes those runs that `texts` name, as `find_side` takes them."""
    with ExitStack() as stack:
        for path in (Path(text.removeprefix("run:")) for text in texts):
            if (path / layout.MANIFEST).is_file():
                stack.enter_context(Run(path).locked(shared=True))
        yield


def find_side(text: str, target: Target, store: Store) -> Side:
    """The side that `text` names: a run, a result (.json), an artifact's file, or a baseline in `store`.

    `baseline:NAME` and `run:PATH` say which. A name that both a run and a baseline have is an error, so that a folder
    can't take the place of a baseline.
    Raises ConfigError or RunError if it is none of these, or has nothing for `target`.
    """
    form, _, rest = text.partition(":")
    if form == "baseline" and rest:
        return _side_of_baseline(rest, target, store)
    if form == "run" and rest:
        return _side_of_run(Run.open(rest), target)
    path = Path(text)
    if (path / layout.MANIFEST).is_file():
        if text in store:
            raise ConfigError(f"{text}: both a run and a baseline. Say which: run:{text} or baseline:{text}")
        return _side_of_run(Run.open(path), target)
    if path.suffix == ".json" and path.is_file():
        return _side_of_result(text, path, target)
    if path.is_file():
        if text in store:
            raise ConfigError(f"{text}: both a file and a baseline. Say which: ./{text} or baseline:{text}")
        suffix = traits_of(target.backend).suffix
        if path.suffix != suffix:
            raise ConfigError(f"{path}: {target.backend} of target {target.name} runs {suffix} files.")
        return Side(name=text, artifact=path, result=None)
    if text not in store and (path.exists() or path.parent != Path()):
        raise ConfigError(f"{path}: not a run, a result (.json) or an artifact.")
    return _side_of_baseline(text, target, store)


def _side_of_baseline(name: str, target: Target, store: Store) -> Side:
    baseline = store.find(name, target.name)
    return Side(name=name, artifact=baseline.artifact, result=baseline.result, file=baseline.file)


def _side_of_result(text: str, path: Path, target: Target) -> Side:
    result = read_result(path)
    if result.target.name != target.name:
        raise RunError(f"{path}: a result for {result.target.name}, not for {target.name}.")
    artifact = artifact_of(path, result)
    own = artifact if is_artifact_of(artifact, result) else None
    return Side(name=text, artifact=own, result=result, file=path)


def _side_of_run(run: Run, target: Target) -> Side:
    require_links(run, target.name)
    files = layout.TargetFiles(target.name)
    artifact = None
    result = run.read(files.result) if run.has(files.result) else None
    if run.has(files.engine):
        artifact = run.file(files.artifact(run.read(files.engine).file))
        if result and not is_artifact_of(artifact, result):  # collected from a device
            artifact = None
    if not artifact and not result:
        raise RunError(f"{run.path}: nothing built for {target.name}. Build: {run.command(files.engine)}")
    file = run.path / files.result.name if result else None
    return Side(name=str(run.path), artifact=artifact, result=result, run=run, file=file)


def is_artifact_of(artifact: Path, result: Result) -> bool:
    """Whether `artifact` is the file that `result` was measured with."""
    return artifact.is_file() and file_sha256(artifact) == result.artifact_sha256


def classes_of(side: Side) -> tuple[str, ...]:
    """Names of the classes of `side`, in the order of its outputs."""
    if side.result:
        return side.result.classes
    if side.run:
        return side.run.read(layout.FACTS).classes
    try:
        return from_json(tuple[str, ...], noted(side, "classes"))
    except ValueError as reason:
        raise RunError(f"{side.name}: its classes are no list of names ({reason}).") from None


def rare_of(side: Side) -> tuple[int, ...]:
    """Indices of its classes with the fewest labelled samples; empty if that is unknown."""
    if side.result:
        return side.result.rare
    from edgeoe.data.samples import rarest  # it needs Pillow, and compare without --test does not

    return rarest(np.asarray(side.run.read(layout.FACTS).counts)) if side.run else ()


def noted(side: Side, key: str) -> Any:
    """What `export` noted under `key` in the graph of `side`."""
    try:
        if side.artifact is not None and side.artifact.suffix == ".onnx":
            return json_from(read_onnx(side.artifact).metadata[f"edgeoe.{key}"])
    except (KeyError, ValueError):
        pass
    raise RunError(f"{side.name}: says nothing of its {key}, which --test needs. Name its run instead: run:PATH")
