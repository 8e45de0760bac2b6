"""Both exporters, what their graphs hold, and the parity gate."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from layers import layer_of
from torch import Tensor, nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import ExportError
from edgeoe.graph.evaluation import run_graph
from edgeoe.graph.export import OPSET, Exporter, _strip, check_parity, onnx_from_student
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


def test_a_graph_for_one_batch_size_only_is_refused(student: nn.Module, images: np.ndarray, tmp_path: Path) -> None:
    model = onnx_from_student(student, preprocess=PREPROCESS, metadata={}, exporter="legacy")
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    batch.Clear()
    batch.dim_value = len(images)
    onnx.save(model, tmp_path / "student.onnx")
    with pytest.raises(ExportError, match=r"can't be run: onnxruntime can't run it on \(1, 3, 16, 16\)"):
        check_parity(tmp_path / "student.onnx", student, images, precision="fp32")


def test_a_graph_that_the_runtime_cant_load_is_refused(student: nn.Module, images: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "student.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"can't be run: .*student\.onnx: onnxruntime can't load it: "):
        check_parity(tmp_path / "student.onnx", student, images, precision="fp32")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_graph_that_answers_no_numbers_is_refused(
    bad: float, student: nn.Module, images: np.ndarray, tmp_path: Path
) -> None:
    spoilt = copy.deepcopy(student)
    nn.init.constant_(layer_of(spoilt, "head").bias, bad)
    model = onnx_from_student(spoilt, preprocess=PREPROCESS, metadata={}, exporter="legacy")
    onnx.save(model, tmp_path / "student.onnx")
    with pytest.raises(ExportError, match="does not compute what the student does"):
        check_parity(tmp_path / "student.onnx", student, images, precision="fp32")


def test_one_wrong_image_among_many_is_found(student: nn.Module, images: np.ndarray, tmp_path: Path) -> None:
    class Jumpy(nn.Module):
        """The student, but for one image."""

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = student(x)
            return logits + 0.1 * (x[:, :1, 0, 0] == float(images[4, 0, 0, 0]))

    onnx.save(onnx_from_student(student, preprocess=PREPROCESS, metadata={}), tmp_path / "student.onnx")
    with pytest.raises(ExportError, match="over 6 images"):
        check_parity(tmp_path / "student.onnx", Jumpy(), images, precision="fp32")


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_a_graph_names_its_input_output_and_batch(exporter: Exporter, student: nn.Module) -> None:
    graph = onnx_from_student(student, preprocess=PREPROCESS, metadata={}, exporter=exporter).graph
    (taken,), (given) = graph.input, graph.output[0]
    assert (taken.name, given.name) == ("images", "logits")
    dims = taken.type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch"
    assert [dim.dim_value for dim in dims[1:]] == [3, 16, 16]
    assert given.type.tensor_type.shape.dim[1].dim_value == 3


def test_exporters_say_nothing_and_leave_logging_as_it_was(
    student: nn.Module, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for exporter in ("dynamo", "legacy"):
        onnx_from_student(student, preprocess=PREPROCESS, metadata={}, exporter=exporter)
        with pytest.raises(ExportError):
            onnx_from_student(
                Unreadable() if exporter == "dynamo" else Unknown(),
                preprocess=PREPROCESS,
                metadata={},
                exporter=exporter,
            )
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)


def test_nothing_about_the_source_code_is_left_in_any_corner() -> None:
    def branch(name: str) -> onnx.GraphProto:
        value = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        node = onnx.helper.make_node("Constant", [], ["y"], value_float=1.0, doc_string=local_path)
        note(node)
        return note(onnx.helper.make_graph([node], name, [], [note(value)], doc_string=local_path))

    def note(part: Any) -> Any:
        part.doc_string = local_path
        part.metadata_props.add(key="stack_trace", value=local_path)
        return part

    local_path = "/home/somebody/net.py"
    condition = note(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    node = note(onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b")))
    result = note(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1]))
    model = note(onnx.helper.make_model(note(onnx.helper.make_graph([node], "g", [condition], [result]))))
    assert model.SerializeToString().count(local_path.encode()) == 22
    _strip(model)
    assert local_path.encode() not in model.SerializeToString()


class Unreadable(nn.Module):
    """Its forward branches on the values of its input, which torch.export can't follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class Unknown(nn.Module):
    """An operator that TorchScript's exporter has never heard of."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x).sum(-1)


@pytest.mark.parametrize(
    ("module", "exporter", "said"),
    [
        (Unreadable(), "dynamo", r"Could not guard on data-dependent.*\.\Z"),
        (Unknown(), "legacy", r"'aten::linalg_svdvals' .*\.\Z"),
    ],
    ids=["dynamo", "legacy"],
)
def test_a_failing_exporter_says_why_in_one_line(module: nn.Module, exporter: Exporter, said: str) -> None:
    with pytest.raises(ExportError, match=said) as refused:
        onnx_from_student(module, preprocess=PREPROCESS, metadata={}, exporter=exporter)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value), "the exporters colour their advice"


class Shifted(nn.Module):
    """Logits that are the mean colour times `scale`, the first of them `shift` beside it."""

    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.mean((2, 3)) + torch.tensor([self.shift, 0.0, 0.0])


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """A graph of `Shifted` by its scale."""
    folder, made = tmp_path_factory.mktemp("graphs"), {}
    for scale in (0.0, 1e-3, 1.0, 1e3):
        made[scale] = folder / f"{scale}.onnx"
        model = onnx_from_student(Shifted(scale).eval(), preprocess=PREPROCESS, metadata={}, exporter="legacy")
        onnx.save(model, made[scale])
    return made


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_errors_are_shares_of_the_greatest_logit(scale: float, graphs: dict[float, Path], images: np.ndarray) -> None:
    """However large the logits are: a shift of 0.05 % of the greatest passes, one of 0.2 % does not."""
    images = images + np.array([2, -3, 1], np.float32)[:, None, None]  # the greatest logit is a negative one
    greatest = float(np.abs(scale * images.mean((2, 3))).max())
    parity, _ = check_parity(graphs[scale], Shifted(scale, 5e-4 * greatest), images, precision="fp32")
    assert parity.max_rel_error == pytest.approx(5e-4, rel=0.02)
    assert parity.agreement == 1
    with pytest.raises(ExportError, match=r"max relative error 0\.002 over 6 images, allowed 0\.001\."):
        check_parity(graphs[scale], Shifted(scale, 2e-3 * greatest), images, precision="fp32")


def test_a_student_whose_logits_are_all_0_has_an_error_too(graphs: dict[float, Path], images: np.ndarray) -> None:
    parity, _ = check_parity(graphs[0.0], Shifted(0.0), images, precision="fp32")
    assert parity.max_rel_error == 0
    with pytest.raises(ExportError, match="max relative error"):
        check_parity(graphs[1.0], Shifted(0.0), images, precision="fp32")
