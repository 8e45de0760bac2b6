"""What every backend must do, run over the whole registry; tensorrt on a fake device (conftest.py)."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeoe.backends import Backend, backend_of
from edgeoe.errors import BackendError
from edgeoe.models.checkpoint import load_student
from edgeoe.registry import BACKENDS
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.targets.backends import known_backends
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import EngineSettings, RuntimeSettings, Target

SETTINGS: dict[
    str, tuple[dict[str, Any], dict[str, Any]]
] = {  # changes to a profile, and what must then stand in the settings of the artifact
    "onnxruntime": ({"runtime": RuntimeSettings(threads=2, spinning=True)}, {"threads": 2, "spinning": True}),
    "openvino": ({"runtime": RuntimeSettings(threads=2)}, {"threads": 2, "unit": "cpu"}),
    "tensorrt": ({"engine": EngineSettings(batch_max=4, tf32=False)}, {"flags": ()}),
}


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "tensorrt":
        request.getfixturevalue("device")
    made: Backend = BACKENDS.load(request.param)()
    return made


@pytest.fixture
def target(request: pytest.FixtureRequest, backend: Backend) -> Target:
    name = request.node.callspec.params["backend"]
    if name == "tensorrt":
        return replace(load_target("jetson-orin-nano"), precision="fp32")
    return replace(load_target("host-cpu"), backend=name)


@pytest.fixture
def golden(exported: Path) -> dict[str, np.ndarray]:
    return Run(exported).read_tensors(layout.GOLDEN)


def test_what_it_builds_answers_as_the_student_does(
    backend: Backend, target: Target, exported: Path, golden: dict[str, np.ndarray], tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    settings = backend.build(exported / "student.onnx", target, artifact)
    assert settings
    with backend.open(artifact, target) as runner:
        assert runner.image_shape == (3, 16, 16)
        np.testing.assert_allclose(runner.infer(golden["images"]), golden["logits"], rtol=1e-3, atol=1e-4)
        answers = {n: runner.infer(golden["images"][:n]) for n in (1, 2, 7, 18)}
    for n, logits in answers.items():
        assert logits.shape == (n, golden["logits"].shape[1])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, golden["logits"][:n], rtol=1e-3, atol=1e-4)


def test_it_answers_as_the_torch_student_does_on_other_images(
    backend: Backend, target: Target, exported: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(5).normal(size=(6, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = load_student(Run(exported))(torch.from_numpy(images)).numpy()
    backend.build(exported / "student.onnx", target, tmp_path / "artifact")
    with backend.open(tmp_path / "artifact", target) as runner:
        np.testing.assert_allclose(runner.infer(images), expected, rtol=1e-3, atol=1e-4)


def test_images_of_another_size_are_refused(backend: Backend, target: Target, exported: Path, tmp_path: Path) -> None:
    backend.build(exported / "student.onnx", target, tmp_path / "artifact")
    with backend.open(tmp_path / "artifact", target) as runner, pytest.raises(BackendError, match=r"\(1, 3, 8, 8\)"):
        runner.infer(np.zeros((1, 3, 8, 8), np.float32))


def test_the_profiles_settings_reach_the_artifact(
    backend: Backend, target: Target, exported: Path, tmp_path: Path
) -> None:
    changes, expected = SETTINGS[target.backend]
    settings = backend.build(exported / "student.onnx", replace(target, **changes), tmp_path / "artifact")
    assert {key: settings[key] for key in expected} == expected


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
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"], "nor leaves anything half-written"


def test_a_build_that_fails_leaves_the_earlier_artifact(
    backend: Backend, target: Target, exported: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    backend.build(exported / "student.onnx", target, artifact)
    before = artifact.read_bytes()
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError):
        backend.build(tmp_path / "graph.onnx", target, artifact)
    assert artifact.read_bytes() == before


def test_it_says_what_an_artifact_is_tied_to(backend: Backend) -> None:
    assert {"python", "edgeoe"} < set(backend.versions())


def test_it_tells_without_a_graph_that_it_is_here(backend: Backend, target: Target) -> None:
    backend.check(target)


def test_an_artifact_that_may_be_built_elsewhere_is_the_graph(
    backend: Backend, target: Target, exported: Path, tmp_path: Path
) -> None:
    backend.build(exported / "student.onnx", target, tmp_path / "artifact")
    same = (tmp_path / "artifact").read_bytes() == (exported / "student.onnx").read_bytes()
    assert same == backend.traits.portable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtime": RuntimeSettings(provider="cuda")}, "provider = 'cuda': this onnxruntime has"),
        ({"backend": "openvino", "runtime": RuntimeSettings(unit="npu")}, "unit = 'npu': OpenVINO finds|not installed"),
        ({"backend": "tensorrt"}, "TensorRT|CUDA"),
    ],
)
def test_what_is_not_here_is_told_without_a_graph(change: dict[str, object], message: str) -> None:
    target = replace(load_target("host-cpu"), **change)  # type: ignore[arg-type]
    made = backend_of(target)
    with pytest.raises(BackendError, match=message):
        made.check(target)


@pytest.mark.parametrize("name", sorted(BACKENDS.built_in))
def test_its_traits_are_known_where_no_runtime_is(name: str) -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from edgeoe.targets.backends import traits_of\n"
        f"print(traits_of({name!r}).title)\n"
        "print(*(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    title, modules = ran.stdout.splitlines()
    assert title
    assert {module.partition(".")[0] for module in modules.split()} - sys.stdlib_module_names <= {
        "edgeoe", "numpy", "annotated_types", "typing_extensions",  # the last two by bounds.py
    }  # fmt: skip


def test_every_table_of_a_profile_that_is_not_everybodys_is_read_by_a_backend() -> None:
    everybodys = {"device", "measure", "budget"}
    tables = {field.name for field in fields(Target) if is_dataclass(field.default_factory)} - everybodys
    assert tables == {table for traits in known_backends().values() for table in traits.tables}
