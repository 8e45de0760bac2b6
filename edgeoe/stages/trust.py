"""trust: a run or an artifact -> what of it runs as a program, and this machine's word for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeoe.backends.admission import concerns
from edgeoe.backends.tensorrt import sidecar_path, sidecar_sha256
from edgeoe.codec import read_json_object
from edgeoe.errors import RunError
from edgeoe.files import file_sha256
from edgeoe.records.trust import Trusted, TrustedFile
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.trust import source_in
from edgeoe.vouching import is_vouched, vouch

__all__ = ["examine", "trust"]


def examine(path: Path) -> Trusted:
    """What in the run or artifact at `path` runs as a program. Nothing of it is run.

    Raises RunError for a run that is damaged or unfinished, and for a plan that is not the one of its sidecar;
    BackendError for a file that is no graph.
    """
    if path.is_dir() or not path.exists():
        return _of_run(Run.open(path))
    return _of_graph(path) if path.suffix == ".onnx" else _of_plan(path)


def trust(record: Trusted) -> Trusted:
    """Vouch on this machine for exactly what `record` lists."""
    vouch(record.kind, record.sha256, what=f"{record.what} in {Path(record.path).absolute()}")
    return replace(record, vouched=True)


def _of_run(run: Run) -> Trusted:
    source, folder = source_in(run), run.path / layout.CODE
    if source is None:
        return Trusted(path=str(run.path), kind="source", what="nothing", sha256="", files=(), vouched=True)
    return Trusted(
        path=str(run.path),
        kind="source",
        what=f"the teacher's source, by {source.factory} of {source.code.file},",
        sha256=source.sha256,
        files=tuple(
            TrustedFile(path=str(folder / name), sha256=digest, size_bytes=(folder / name).stat().st_size)
            for name, digest in source.hashes.items()
        ),
        vouched=source.vouched,
    )


def _of_graph(path: Path) -> Trusted:
    reasons = concerns(path)
    files = (path,) if reasons else ()
    return _of_artifact(path, f"the graph ({'; '.join(reasons)})", files=files, digest=file_sha256(path))


def _of_plan(path: Path) -> Trusted:
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        raise RunError(f"{path}: neither a run, nor a graph (.onnx), nor a plan with its {sidecar.name} beside it.")
    try:
        content = read_json_object(sidecar)
    except ValueError as reason:
        raise RunError(f"{sidecar}: not the sidecar of a plan ({reason}).") from None
    if content.get("plan_sha256") != file_sha256(path):
        raise RunError(f"{path}: not the plan that {sidecar.name} was written for.")
    return _of_artifact(path, "the plan", files=(path, sidecar), digest=sidecar_sha256(content))


def _of_artifact(path: Path, what: str, *, files: tuple[Path, ...], digest: str) -> Trusted:
    """The record of an artifact.

    digest: what is vouched for.
    """
    return Trusted(
        path=str(path),
        kind="artifact",
        what=what,
        sha256=digest,
        files=tuple(
            TrustedFile(path=str(file), sha256=file_sha256(file), size_bytes=file.stat().st_size) for file in files
        ),
        vouched=not files or is_vouched("artifact", digest),
    )
