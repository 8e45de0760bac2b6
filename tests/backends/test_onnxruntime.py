"""Providers are taken as the profile says, or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgeoe.backends.onnxruntime import OnnxRuntime
from edgeoe.errors import BackendError
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import RuntimeSettings, Target


def target_on(provider: Any, **runtime: Any) -> Target:
    return replace(load_target("host-cpu"), runtime=RuntimeSettings(provider=provider, **runtime))


def test_the_placement_of_every_node_is_recorded(exported: Path, tmp_path: Path) -> None:
    settings = OnnxRuntime().build(exported / "student.onnx", target_on("cpu"), tmp_path / "a.onnx")
    assert settings["providers"] == ["CPUExecutionProvider"]
    assert set(settings["placement"]) == {"CPUExecutionProvider"}
    assert settings["placement"]["CPUExecutionProvider"] > 3
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.onnx"], "the profile of the run is gone"


@pytest.mark.parametrize(
    ("provider", "package"),
    [("cuda", "onnxruntime-gpu"), ("tensorrt", "onnxruntime-gpu"), ("openvino", "onnxruntime-openvino")],
)
def test_a_provider_that_this_onnxruntime_lacks_is_refused(
    provider: str, package: str, exported: Path, tmp_path: Path
) -> None:
    if any(provider in name.lower() for name in ort.get_available_providers()):
        pytest.skip(f"this onnxruntime has {provider}")
    with pytest.raises(BackendError, match=rf"this onnxruntime has .*CPUExecutionProvider.* pip install {package}"):
        OnnxRuntime().build(exported / "student.onnx", target_on(provider), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_nodes_that_ran_elsewhere_are_named(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ort.InferenceSession.end_profiling

    def moved(session: ort.InferenceSession) -> str:
        path = Path(real(session))
        events = json.loads(path.read_text())
        nodes = [event for event in events if event.get("cat") == "Node" and event["args"].get("op_name") == "Gemm"]
        assert nodes
        for event in nodes:
            event["args"]["provider"] = "SomeOtherProvider"
        path.write_text(json.dumps(events))
        return str(path)

    monkeypatch.setattr(ort.InferenceSession, "end_profiling", moved)
    with pytest.raises(BackendError, match=r"1 of \d+ nodes did not run on CPUExecutionProvider: Gemm on SomeOther"):
        OnnxRuntime().build(exported / "student.onnx", target_on("cpu"), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.skipif(
    "OpenVINOExecutionProvider" not in ort.get_available_providers(),
    reason="this onnxruntime is not onnxruntime-openvino",
)
def test_openvino_takes_every_node(exported: Path, tmp_path: Path) -> None:
    settings = OnnxRuntime().build(exported / "student.onnx", target_on("openvino"), tmp_path / "a.onnx")
    assert set(settings["placement"]) == {"OpenVINOExecutionProvider"}


def test_a_graph_whose_image_size_is_open_is_refused(exported: Path, tmp_path: Path) -> None:
    graph = onnx.load(exported / "student.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(graph, tmp_path / "open.onnx")
    with (
        pytest.raises(BackendError, match=r"edgeoe runs graphs of a fixed \(C, H, W\)"),
        OnnxRuntime().open(tmp_path / "open.onnx", target_on("cpu")),
    ):
        pass


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt"])
def test_backends_import_with_numpy_and_their_runtime_alone(backend: str, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'onnx', 'safetensors', 'pydantic', 'scipy', 'typer', 'rich'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    code = f"import edgeoe.backends.{backend}, edgeoe.measure.worker, edgeoe.measure.speed, edgeoe.run.result_file"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


def test_batches_of_any_size_are_taken(exported: Path) -> None:
    with OnnxRuntime().open(exported / "student.onnx", target_on("cpu", threads=2)) as runner:
        assert [len(runner.infer(np.zeros((n, 3, 16, 16), np.float32))) for n in (1, 5, 2)] == [1, 5, 2]
