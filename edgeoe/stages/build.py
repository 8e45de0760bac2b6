"""build: ONNX -> artifact for one target."""

from __future__ import annotations

from edgeoe.backends import Backend
from edgeoe.records import Artifact, Target
from edgeoe.registry import BACKENDS, resolve
from edgeoe.run import Run, file_sha256

__all__ = ["build"]


def build(run: Run, target: Target) -> Artifact:
    """Build the artifact for `target` from the run's graph, and prove that it loads and runs."""
    run.file("export.json", made_by=f"export {run.path}")
    graph = run.file("student.onnx", made_by=f"export {run.path}")
    backend: Backend = resolve(BACKENDS, target.backend, kind="backend")()
    folder = f"targets/{target.name}"
    run.forget(*(f"{folder}/{name}" for name in ("validation.json", "latency.json", "engine.json")))
    path = run.path / folder / "model.onnx"
    settings = backend.build(graph, target, path)
    run.note(f"{folder}/model.onnx")
    artifact = Artifact(
        artifact=f"{folder}/model.onnx",
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
