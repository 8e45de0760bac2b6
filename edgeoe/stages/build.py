"""build: ONNX -> artifact for one target."""

from __future__ import annotations

from edgeoe.backends import Backend
from edgeoe.feasibility import require_buildable
from edgeoe.progress import Progress, silent
from edgeoe.records import Artifact, Target
from edgeoe.registry import BACKENDS, resolve
from edgeoe.run import Run, file_sha256
from edgeoe.stages.lower import graph_file, graph_made_by

__all__ = ["build"]


def build(run: Run, target: Target, *, progress: Progress = silent) -> Artifact:
    """Build the artifact for `target` from the run's graph, and prove that it loads and runs.

    Raises TargetError if the profile asks for what can't be.
    """
    require_buildable(target)
    made_by = graph_made_by(run, target)
    run.file("export.json", made_by=made_by)
    graph = run.file(graph_file(target), made_by=made_by)
    backend: Backend = resolve(BACKENDS, target.backend, kind="backend")()
    folder = f"targets/{target.name}"
    run.forget(*(f"{folder}/{name}" for name in ("validation.json", "result.json", "engine.json")))
    path = run.path / folder / f"model{backend.suffix}"
    settings = backend.build(graph, target, path, progress=progress)
    for written in sorted(path.parent.glob(f"{path.name}*")):
        run.note(f"{folder}/{written.name}")
    artifact = Artifact(
        artifact=f"{folder}/{path.name}",
        sha256=file_sha256(path),
        size_bytes=path.stat().st_size,
        backend=target.backend,
        versions=backend.versions(),
        target=target.name,
        precision=target.precision,
        graph_sha256=file_sha256(graph),
        settings=settings,
    )
    run.write_record(f"{folder}/engine.json", artifact)
    return artifact
