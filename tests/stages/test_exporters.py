"""Which exporter is taken, and what is said where one or both can't."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from layers import layer_of
from torch import Tensor, nn

from edgeoe.errors import ExportError
from edgeoe.graph.evaluation import run_graph
from edgeoe.graph.export import onnx_from_student
from edgeoe.pipeline import export
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.stages.export import ExporterChoice

OUTPUTS = ("student.onnx", "export.json", "golden.safetensors")


class Guarded(nn.Module):
    """Looks at its input's values, which torch.export can't follow; what TorchScript records is right for images."""

    def forward(self, x: Tensor) -> Tensor:
        return (x if x.sum() < 1e9 else -x).mean((2, 3))


class Branching(nn.Module):
    """Answers images with a sum over zero in another way, so that what TorchScript records is wrong."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() == 0 else x.amax((2, 3))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def answers_with(monkeypatch: pytest.MonkeyPatch, student: nn.Module) -> None:
    monkeypatch.setattr("edgeoe.stages.export.load_student", lambda run: student.eval())


def spoil(monkeypatch: pytest.MonkeyPatch, how: str, *exporters: str) -> None:
    """Let `exporters` write graphs that the parity gate refuses."""

    def spoilt(student: nn.Module, *, exporter: Any, **options: Any) -> onnx.ModelProto:
        if exporter not in exporters:
            return onnx_from_student(student, exporter=exporter, **options)
        other = copy.deepcopy(student)
        if how == "another network's":
            nn.init.normal_(layer_of(other, "head").weight)
        graph = onnx_from_student(other, exporter="legacy", **options)
        if how == "for one batch size only":
            batch = graph.graph.input[0].type.tensor_type.shape.dim[0]
            batch.Clear()
            batch.dim_value = 18
        return graph

    monkeypatch.setattr("edgeoe.stages.export.onnx_from_student", spoilt)


def test_by_default_it_is_dynamo_and_nothing_is_said(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert export(Run.open(exported)).exporter == "dynamo"
    assert said(caplog) == []


def test_a_student_that_dynamo_cant_read_is_left_to_the_legacy_exporter(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers_with(monkeypatch, Guarded())
    run = Run.open(exported)
    record = export(run)
    assert record.exporter == run.read(layout.EXPORT).exporter == "legacy"
    (line,) = said(caplog)
    assert "the legacy exporter was used: the dynamo exporter can't read this student: Could not guard" in line
    images = run.read_tensors(layout.GOLDEN)["images"]
    for n in (1, 2, 5):
        expected = torch.from_numpy(images[:n]).mean((2, 3)).numpy()
        np.testing.assert_allclose(run_graph(exported / "student.onnx", images[:n]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["another network's", "for one batch size only"])
def test_a_dynamo_graph_that_does_not_pass_is_replaced_by_a_legacy_one(
    how: str, exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(monkeypatch, how, "dynamo")
    record = export(Run.open(exported))
    assert (record.exporter, record.agreement) == ("legacy", 1.0)
    (line,) = said(caplog)
    assert line.startswith("the legacy exporter was used: the exported graph ")


def test_where_both_fail_both_reasons_are_one_line_and_nothing_is_left(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers_with(monkeypatch, Branching())
    with pytest.raises(ExportError, match=r"dynamo: the dynamo exporter can't read .* legacy: the exported graph does"):
        export(Run.open(exported))
    assert said(caplog) == []
    monkeypatch.undo()
    spoil(monkeypatch, "another network's", "dynamo", "legacy")
    with pytest.raises(ExportError, match=r"dynamo: .* relative error .* legacy: .* relative error") as refused:
        export(Run.open(exported))
    assert "\n" not in str(refused.value)
    assert not [name for name in OUTPUTS if (exported / name).exists()]


@pytest.mark.parametrize(("asked", "other"), [("dynamo", "legacy"), ("legacy", "dynamo")])
def test_an_exporter_that_was_asked_for_is_not_replaced(
    asked: ExporterChoice, other: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "another network's", asked)
    with pytest.raises(ExportError, match=rf"allowed 0\.001\. Try: edgeoe export {exported} --exporter {other}\Z"):
        export(Run.open(exported), exporter=asked)
    assert not [name for name in OUTPUTS if (exported / name).exists()]
