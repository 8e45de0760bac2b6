"""What every backend must do, run over the whole registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeoe.backends import Backend
from edgeoe.errors import BackendError
from edgeoe.records import RuntimeSettings, Target
from edgeoe.registry import BACKENDS, resolve
from edgeoe.run import Run
from edgeoe.targets import load_target


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = resolve(BACKENDS, request.param, kind="backend")()
    return made


@pytest.fixture
def target() -> Target:
    return load_target("host-cpu")


@pytest.fixture
def golden(exported: Path) -> dict[str, np.ndarray]:
    return Run(exported).read_tensors("golden.safetensors", made_by="export")


def test_what_it_builds_answers_as_the_student_does(
    backend: Backend, target: Target, exported: Path, golden: dict[str, np.ndarray], tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    settings = backend.build(exported / "student.onnx", target, artifact)
    assert settings
    with backend.open(artifact, target) as runner:
        np.testing.assert_allclose(runner.infer(golden["images"]), golden["logits"], rtol=1e-3, atol=1e-4)
        one = runner.infer(golden["images"][:1])
    assert one.shape == (1, golden["logits"].shape[1])
    assert one.dtype == np.float32


def test_the_profiles_settings_reach_the_artifact(
    backend: Backend, target: Target, exported: Path, tmp_path: Path
) -> None:
    two = replace(target, runtime=RuntimeSettings(threads=2, spinning=True))
    settings = backend.build(exported / "student.onnx", two, tmp_path / "artifact")
    assert (settings["threads"], settings["spinning"]) == (2, True)


def test_a_damaged_artifact_is_refused(backend: Backend, target: Target, exported: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    backend.build(exported / "student.onnx", target, artifact)
    artifact.write_bytes(artifact.read_bytes()[:200])
    with pytest.raises(BackendError, match="can't load it"), backend.open(artifact, target):
        pass


def test_a_graph_that_is_none_builds_nothing(backend: Backend, target: Target, tmp_path: Path) -> None:
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"no graph")
    with pytest.raises(BackendError):
        backend.build(graph, target, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_it_says_what_an_artifact_is_tied_to(backend: Backend) -> None:
    assert {"python", "edgeoe"} < set(backend.versions())
