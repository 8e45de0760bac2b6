"""Both exporters, what their graphs hold, and the parity gate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgeoe.backends.onnxruntime import run_graph
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import ExportError
from edgeoe.graph.export import OPSET, Exporter, check_parity, onnx_from_student
from edgeoe.models.teacher import TeacherSource

PREPROCESS = Preprocess(size=(16, 16), mean=(0.4,) * 3, std=(0.3,) * 3)


@pytest.fixture(scope="module")
def student(teacher_file: Path) -> nn.Module:
    torch.manual_seed(3)
    return TeacherSource.parse(f"{teacher_file}:residual").build(3).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_a_graph_computes_what_its_student_does(
    exporter: Exporter, student: nn.Module, images: np.ndarray, tmp_path: Path, teacher_file: Path
) -> None:
    model = onnx_from_student(student, preprocess=PREPROCESS, metadata={"classes": ["a", "b", "c"]}, exporter=exporter)
    path = tmp_path / "student.onnx"
    onnx.save(model, path)
    parity, logits = check_parity(path, student, images, precision="fp32")
    assert parity.max_rel_error < 1e-4
    assert parity.agreement == 1.0
    assert logits.shape == (6, 3)
    assert run_graph(path, images[:5]).shape == (5, 3), "the batch is not dynamic"
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["edgeoe.classes"] == ["a", "b", "c"]
    assert properties["edgeoe.preprocess"]["size"] == [16, 16]
    raw = path.read_bytes()
    for trace in (b"stack_trace", b".py", str(teacher_file.parent).encode(), str(Path.home()).encode() + b"/"):
        assert trace not in raw
    assert list(tmp_path.iterdir()) == [path], "weights went into a second file"


def test_a_graph_of_another_network_is_refused(student: nn.Module, images: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    onnx.save(onnx_from_student(student, preprocess=PREPROCESS, metadata={}), path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)).eval()
    with pytest.raises(ExportError, match=r"max relative error .* allowed 0\.001"):
        check_parity(path, other, images, precision="fp32")


class Unreadable(nn.Module):
    """Its forward branches on the values of its input, which torch.export can't follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_a_failing_exporter_names_the_other_one() -> None:
    with pytest.raises(ExportError, match="--exporter legacy"):
        onnx_from_student(Unreadable(), preprocess=PREPROCESS, metadata={})
