"""fp16 and int8 graphs of a run, built and validated like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import QUICK

from edgeoe.errors import ExportError, RunError
from edgeoe.pipeline import build, export, validate
from edgeoe.records import DeviceFacts, RuntimeSettings
from edgeoe.run import Run
from edgeoe.stages import lower
from edgeoe.stages.lower import Int8Settings, graph_file
from edgeoe.targets import load_target


def test_every_precision_is_written_with_how_far_it_is(exported: Path) -> None:
    run = Run(exported)
    record = export(run, precisions=["fp32", "fp16", "int8"])
    assert [graph.precision for graph in record.graphs] == ["fp16", "int8-cpu", "int8-cpu-7bit", "int8-trt"]
    for graph in record.graphs:
        assert (run.path / graph.path).stat().st_size == graph.size_bytes
        assert 0 < graph.max_rel_error < 0.3
        assert graph.agreement >= 0.9
    half, cpu, *_ = record.graphs
    assert half.max_rel_error < 0.02
    assert (half.calibration, cpu.calibration) == (None, "percentile")
    assert cpu.calibration_images > 0
    saved = run.read_record("export.json", made_by="export")
    assert [graph["path"] for graph in saved["graphs"]] == [graph.path for graph in record.graphs]


def test_a_target_names_the_graph_that_it_has_kernels_for() -> None:
    int8 = replace(load_target("host-cpu"), precision="int8")
    assert graph_file(int8) == "student-int8-cpu.onnx"
    assert graph_file(replace(int8, device=DeviceFacts(int8_dot=False))) == "student-int8-cpu-7bit.onnx"
    assert graph_file(replace(int8, backend="openvino")) == "student-int8-cpu.onnx"
    assert graph_file(replace(int8, runtime=RuntimeSettings(provider="tensorrt"))) == "student-int8-trt.onnx"
    assert graph_file(replace(int8, backend="tensorrt")) == "student-int8-trt.onnx"
    assert graph_file(replace(int8, precision="fp16")) == "student-fp16.onnx"


def test_a_target_gets_the_graph_of_its_precision(exported: Path, pictures: Path) -> None:
    run = Run(exported)
    target = replace(load_target("host-cpu"), precision="int8", measure=QUICK)
    with pytest.raises(RunError, match=r"export .* --precision int8"):
        build(run, target)
    export(run, precisions=["int8"])
    artifact = build(run, target)
    assert (run.path / artifact.artifact).read_bytes() == (run.path / "student-int8-cpu.onnx").read_bytes()
    measurement, _ = validate(run, target, test=pictures / "test")
    assert measurement.golden_agreement >= 0.9


def test_exporting_again_forgets_graphs_of_before(exported: Path) -> None:
    run = Run(exported)
    export(run, precisions=["int8"])
    export(run)
    assert not list(run.path.glob("student-*.onnx"))


def test_the_dearest_layers_stay_fp32_until_the_drop_is_met(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agreement is made up: three layers must stay."""
    dearest: list[str] = []

    def agreement(self: lower._Images, logits: np.ndarray) -> float:
        return 1 - max(0, 3 - kept[-1]) / 100

    kept = [0]
    make = lower._Maker.make

    def making(self: lower._Maker, keep: list[str]) -> object:
        kept.append(len(keep))
        return make(self, keep)

    monkeypatch.setattr(lower._Images, "agreement", agreement)
    monkeypatch.setattr(lower._Maker, "make", making)
    (record,) = export(Run(exported), precisions=["int8"], recipes=["int8-cpu"], int8=Int8Settings(max_drop=0.0)).graphs
    dearest = [cost.layer for cost in record.layers]
    assert record.kept_fp32 == tuple(dearest[:3])
    assert [cost.error for cost in record.layers] == sorted((cost.error for cost in record.layers), reverse=True)


def test_an_int8_graph_that_disagrees_is_not_written(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower._Images, "agreement", lambda self, logits: 0.5)
    with pytest.raises(ExportError, match=r"int8-cpu .* only 50.0 % .*--calibration"):
        export(Run(exported), precisions=["int8"])
    assert not list(exported.glob("student-int8*"))


def test_fp16_that_strays_is_not_written(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower, "FP16_TOLERANCE", 1e-9)
    with pytest.raises(ExportError, match="in fp16 this student strays"):
        export(Run(exported), precisions=["fp16"])
    assert not (exported / "student-fp16.onnx").exists()


def test_the_command_line_tells_each_graph_and_the_dearest_layers(
    exported: Path, edgeoe: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = edgeoe("export", exported, "--precision", "fp16,int8", "--sensitivity")
    assert code == 0
    assert "student-fp16.onnx" in out
    assert "student-int8-trt.onnx" in out
    assert "each layer alone in int8" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int4"], "--precision must be of fp32, fp16, int8. Got 'int4'."),
        (["--calibration", "best"], "--calibration must be one of minmax, percentile, entropy, mse. Got 'best'."),
        (["--max-drop", "2"], "--max-drop is a share of images, from 0 to 1. Got 2.0."),
    ],
)
def test_wrong_wishes_take_one_line(
    arguments: list[str], message: str, exported: Path, edgeoe: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = edgeoe("export", exported, *arguments)
    assert code == 2
    assert message in err
