"""OpenVINO computes where and how the profile says, or says why not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from edgeoe.backends.openvino import OpenVino
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import BackendError
from edgeoe.graph.calibration import observe
from edgeoe.graph.evaluation import run_graph
from edgeoe.graph.export import onnx_from_student
from edgeoe.graph.quantize import quantise, watched_tensors
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import RuntimeSettings, Target

PREPROCESS = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)


def target_on(**runtime: Any) -> Target:
    return replace(load_target("host-cpu"), backend="openvino", runtime=RuntimeSettings(**runtime))


def test_what_it_was_compiled_with_is_recorded(exported: Path, tmp_path: Path) -> None:
    """The precision among it: processors with bfloat16 units would else round to 8 bits of mantissa."""
    settings = OpenVino().build(exported / "student.onnx", target_on(threads=1), tmp_path / "a.onnx")
    assert settings["unit"] == "cpu"
    assert settings["properties"] == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": "1",
        "ENABLE_CPU_PINNING": "NO",
    }


def test_an_int8_graph_computes_what_it_does_in_onnxruntime(
    network: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    x = np.random.default_rng(0).standard_normal((40, 3, 16, 16), dtype=np.float32)
    fp32 = onnx_from_student(network("stages"), preprocess=PREPROCESS, metadata={})
    seen = observe(fp32, watched_tensors(fp32), x, np.ones(len(x)))
    onnx.save(quantise(fp32, "int8-cpu", seen, method="percentile"), tmp_path / "int8.onnx")
    expected = run_graph(tmp_path / "int8.onnx", x)
    with OpenVino().open(tmp_path / "int8.onnx", replace(target_on(), precision="int8")) as runner:
        np.testing.assert_allclose(runner.infer(x), expected, atol=0.1 * np.abs(expected).max())


@pytest.mark.parametrize("unit", ["gpu", "npu"])
def test_a_unit_that_is_not_here_is_no_reason_for_another(unit: str, exported: Path, tmp_path: Path) -> None:
    import openvino

    if any(name.startswith(unit.upper()) for name in openvino.Core().available_devices):
        pytest.skip(f"there is a {unit} here")
    with pytest.raises(BackendError, match=rf"unit = '{unit}': OpenVINO finds CPU here"):
        OpenVino().build(exported / "student.onnx", target_on(unit=unit), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_a_missing_package_is_told_with_the_way_to_get_it(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"openvino is not installed: pip install 'edgeoe\[openvino\]'"):
        OpenVino().build(exported / "student.onnx", target_on(), tmp_path / "a.onnx")


def test_a_graph_whose_image_size_is_open_is_refused(exported: Path, tmp_path: Path) -> None:
    graph = onnx.load(exported / "student.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    onnx.save(graph, tmp_path / "open.onnx")
    with (
        pytest.raises(BackendError, match=r"edgeoe runs graphs of a fixed \(C, H, W\)"),
        OpenVino().open(tmp_path / "open.onnx", target_on()),
    ):
        pass


def test_outputs_are_the_callers_own(exported: Path) -> None:
    """A later call must not write into what an earlier one returned."""
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)
    with OpenVino().open(exported / "student.onnx", target_on()) as runner:
        first = runner.infer(x)
        kept = first.copy()
        runner.infer(-x)
    np.testing.assert_array_equal(first, kept)
