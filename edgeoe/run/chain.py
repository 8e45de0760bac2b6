"""The chain of a run: each record names the hashes of what it was made of, and each stage checks all links before it.

teacher, code, samples, OOD images -> student       compress.json: contents, student_sha256
student -> graphs, golden outputs                   export.json: student_sha256, sha256 of each graph, golden_sha256
graph -> artifact                                   engine.json: graph_sha256, sha256
graph, golden outputs -> bundle                     bundle.json: graph, files
artifact, or bundle -> result                       result.json: artifact_sha256, bundle_sha256
result -> verdict                                   validation.json: result_sha256
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

from edgeoe.errors import RunError
from edgeoe.files import file_sha256
from edgeoe.records.bundle import BundleFacts
from edgeoe.records.graphs import ExportRecord
from edgeoe.records.measurement import Artifact, Validation
from edgeoe.records.result import Result
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.layout import File, TargetFiles

__all__ = [
    "require_artifact",
    "require_bundle",
    "require_golden",
    "require_graph",
    "require_links",
    "require_student",
    "require_verdict",
    "student_sha256",
]


def student_sha256(run: Run) -> str:
    """Hash of the files of the student of `run`: its plan, its weights, and its program where it has one."""
    files = [layout.PLAN, layout.WEIGHTS, *([layout.STUDENT_PROGRAM] if run.has(layout.STUDENT_PROGRAM) else [])]
    lines = [f"{file.name} {file_sha256(run.file(file))}\n" for file in files]
    return sha256("".join(lines).encode()).hexdigest()


def require_student(run: Run) -> str:
    """The hash of the student of `run`. Raises RunError unless it is the one that compress.json describes."""
    found = student_sha256(run)
    if run.read(layout.COMPRESS).student_sha256 != found:
        raise RunError(f"{run.path / layout.STUDENT}: not the student of {layout.COMPRESS.name}. Make the run again.")
    return found


def require_graph(run: Run, file: File) -> Path:
    """The path of the graph `file`. Raises RunError unless `export` wrote it, of the run's own student."""
    path, record = run.file(file), _exported(run)
    graphs = {record.path: record.sha256, **{graph.path: graph.sha256 for graph in record.graphs}}
    if graphs.get(file.name) != file_sha256(path):
        raise RunError(f"{path}: not the graph of {layout.EXPORT.name}. Export again: {run.command(file)}")
    return path


def require_golden(run: Run) -> Path:
    """The path of the golden outputs. Raises RunError unless they are of the run's own student."""
    path = run.file(layout.GOLDEN)
    if _exported(run).golden_sha256 != file_sha256(path):
        raise RunError(f"{path}: not those of {layout.EXPORT.name}. Export again: {run.command(layout.GOLDEN)}")
    return path


def require_artifact(run: Run, target: str) -> Artifact:
    """The record of the artifact for `target`. Raises RunError unless it is of a graph of the run's student."""
    return _artifact(run, target, _hashes(_exported(run)))


def require_bundle(run: Run, target: str) -> BundleFacts:
    """The facts of the bundle for `target`. Raises RunError unless it has a graph of the run's student."""
    return _bundle(run, target, _hashes(_exported(run)))


def require_verdict(run: Run, target: str) -> Validation:
    """The verdict for `target`. Raises RunError unless it is on a result of an artifact of the run's student."""
    files = TargetFiles(target)
    validation, result = run.read(files.validation), run.read(files.result)
    path = run.path / files.validation.name
    again = f"Validate again: {run.command(files.validation)}"
    if validation.result_sha256 != file_sha256(run.file(files.result)):
        raise RunError(f"{path}: on another result than {files.result.name}. {again}")
    if result.bundle_sha256:
        require_bundle(run, target)
    else:
        require_artifact(run, target)
    _require_origin(run, target, result, path)
    return validation


def require_links(run: Run, target: str) -> None:
    """Raise RunError if a link up to artifact and result for `target` is broken, of those whose files are there.

    A run that travelled need not be whole.
    """
    files = TargetFiles(target)
    if run.has(layout.PLAN) and run.has(layout.WEIGHTS):
        require_student(run)
    graphs = _hashes(_of_student(run)) if run.has(layout.EXPORT) else None
    if run.has(files.engine):
        _artifact(run, target, graphs)
    if run.has(files.bundle):
        _bundle(run, target, graphs)
    if run.has(files.result):
        _require_origin(run, target, run.read(files.result), run.path / files.result.name)


def _exported(run: Run) -> ExportRecord:
    require_student(run)
    return _of_student(run)


def _of_student(run: Run) -> ExportRecord:
    """The record of the graphs. Raises RunError unless it is on the student of compress.json."""
    record = run.read(layout.EXPORT)
    if record.student_sha256 != run.read(layout.COMPRESS).student_sha256:
        raise RunError(
            f"{run.path / layout.EXPORT.name}: of another student. Export again: {run.command(layout.EXPORT)}"
        )
    return record


def _hashes(record: ExportRecord) -> list[str]:
    return [record.sha256, *(graph.sha256 for graph in record.graphs)]


def _artifact(run: Run, target: str, graphs: Collection[str] | None) -> Artifact:
    """The record of the artifact for `target`. Raises RunError unless it is of one of `graphs`; None takes any."""
    files = TargetFiles(target)
    artifact = run.read(files.engine)
    path, again = run.file(files.artifact(artifact.file)), f"Build again: {run.command(files.engine)}"
    if file_sha256(path) != artifact.sha256:
        raise RunError(f"{path}: not the artifact of {files.engine.name}. {again}")
    if graphs is not None and artifact.graph_sha256 not in graphs:
        raise RunError(f"{path}: built from another graph. {again}")
    return artifact


def _bundle(run: Run, target: str, graphs: Collection[str] | None) -> BundleFacts:
    """The facts of the bundle for `target`. Raises RunError unless it has one of `graphs`; None takes any."""
    files = TargetFiles(target)
    facts = run.read(files.bundle)
    if graphs is not None and facts.graph.get("sha256") not in graphs:
        raise RunError(f"{run.path / files.bundle.name}: of another graph. Bundle again: {run.command(files.bundle)}")
    return facts


def _require_origin(run: Run, target: str, result: Result, path: Path) -> None:
    """Raise RunError, about the file `path`, if `result` is of another bundle or artifact than the run has."""
    files = TargetFiles(target)
    if result.bundle_sha256:
        if run.has(files.bundle) and file_sha256(run.file(files.bundle)) != result.bundle_sha256:
            raise RunError(
                f"{path}: on another bundle than the latest. Run that on the device, and collect its result."
            )
    elif run.has(files.engine) and run.read(files.engine).sha256 != result.artifact_sha256:
        raise RunError(
            f"{path}: on another artifact than that of {files.engine.name}. "
            f"Validate again: {run.command(files.validation)}"
        )
