"""Each stage reads the run, refuses what was changed, and leaves no half result."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from layers import layer_of
from made_up import QUICK
from torch import nn

from edgeoe.errors import BackendError, DataError, ExportError, RunError
from edgeoe.files import file_sha256
from edgeoe.graph.export import onnx_from_student
from edgeoe.models.checkpoint import load_student
from edgeoe.pipeline import build, export, validate
from edgeoe.report.html import read_report, report_page
from edgeoe.report.json import validation_json
from edgeoe.report.junit import junit_of_validation
from edgeoe.report.markdown import markdown_of_validation
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.stages.precisions import graph_file
from edgeoe.stages.teacher import teacher_predictions
from edgeoe.stages.validate import read_test
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Budget, DeviceFacts, RuntimeSettings, Target


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=QUICK)


def test_export_is_stored_with_its_record_and_golden_outputs(exported: Path) -> None:
    run = Run.open(exported)
    record = run.read(layout.EXPORT)
    golden = run.read_tensors(layout.GOLDEN)
    assert record.sha256 == file_sha256(exported / record.path)
    assert (record.opset, record.precision, record.exporter) == (18, "fp32", "dynamo")
    assert len(golden["images"]) == len(golden["logits"]) == 32
    assert record.images == 64, "some of the images for calibration are compared, too"
    assert record.agreement == 1.0
    assert record.max_rel_error <= 1e-3
    with torch.no_grad():
        logits = load_student(run)(torch.from_numpy(golden["images"])).numpy()
    np.testing.assert_allclose(golden["logits"], logits, rtol=1e-5, atol=1e-6)
    pixels = run.read_tensors(layout.PROBE)["golden"]
    np.testing.assert_array_equal(golden["images"], run.read(layout.FACTS).preprocess.normalise(pixels))


def test_an_artifact_of_an_earlier_graph_is_not_measured(exported: Path, target: Target, pictures: Path) -> None:
    run = Run.open(exported)
    build(run, target)
    export(run, exporter="legacy")
    with pytest.raises(RunError, match=r"built from another graph\. Build again: edgeoe build"):
        validate(run, target, test=pictures / "test")


def test_a_changed_artifact_is_not_loaded(exported: Path, target: Target, pictures: Path) -> None:
    run = Run.open(exported)
    artifact = exported / build(run, target).artifact
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    with pytest.raises(RunError, match="changed since edgeoe wrote it"):
        validate(run, target, test=pictures / "test")


def test_a_changed_graph_is_not_built(exported: Path, target: Target) -> None:
    graph = exported / "student.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(RunError, match=r"student\.onnx: changed since edgeoe wrote it\. Make it again: edgeoe export"):
        build(Run.open(exported), target)


def test_building_again_after_another_export_is_measured(exported: Path, target: Target, pictures: Path) -> None:
    run = Run.open(exported)
    build(run, target)
    export(run, exporter="legacy")
    rebuilt = build(run, target)
    measurement = validate(run, target, test=pictures / "test").measurement
    assert measurement.artifact_sha256 == rebuilt.sha256 == file_sha256(exported / rebuilt.artifact)
    assert rebuilt.graph_sha256 == file_sha256(exported / "student.onnx")
    assert measurement.golden_agreement == 1.0


def test_building_again_discards_what_was_measured_before(exported: Path, target: Target, pictures: Path) -> None:
    run = Run.open(exported)
    build(run, target)
    validate(run, target, test=pictures / "test")
    build(run, target)
    assert sorted(path.name for path in (exported / "targets" / "host-cpu").iterdir()) == ["engine.json", "model.onnx"]


def test_validation_stores_its_raw_calls(exported: Path, target: Target, pictures: Path) -> None:
    run = Run.open(exported)
    build(run, target)
    measurement = validate(run, target, test=pictures / "test").measurement
    folder = exported / "targets" / "host-cpu"
    stored = json.loads((folder / "result.json").read_text())
    calls = [call for process in stored["speed"]["calls_ms"] for call in process]
    assert measurement.speed is not None
    assert len(calls) == measurement.speed.latency.n
    assert len(stored["predictions"]["chosen"]) == 30
    record: dict[str, Any] = validation_json(run.read(layout.TargetFiles("host-cpu").validation))
    assert record["latency_ms"]["p50"] in calls
    assert record["latency_ms"]["processes"] == 2
    assert record["images_per_class"] == [10, 10, 10]
    assert record["rare_classes"] == ["square", "cross", "circle"]


def test_the_drop_against_the_teacher_is_measured_on_the_same_images(
    exported: Path, target: Target, pictures: Path
) -> None:
    run, strict = Run.open(exported), replace(target, budget=Budget(max_drop=1.0))
    build(run, strict)
    validation = validate(run, strict, test=pictures / "test")
    measurement, verdict = validation.measurement, validation.verdict
    assert measurement.drop is not None
    assert measurement.drop.low <= measurement.drop.value <= measurement.drop.high
    assert (verdict.checks[-1].name, verdict.outcome) == ("max_drop", "passed")
    teacher = teacher_predictions(run, read_test(run, pictures / "test"))
    assert measurement.accuracy is not None
    top1 = float(np.equal(teacher.chosen, teacher.labels).mean())
    assert measurement.drop.value == pytest.approx(top1 - measurement.accuracy.top1.value)


def test_without_the_teacher_its_drop_is_refused_with_the_way_out(
    exported: Path, target: Target, pictures: Path
) -> None:
    run, strict = Run.open(exported), replace(target, budget=Budget(max_drop=0.5))
    build(run, strict)
    paths = exported / "paths.toml"
    run.write(layout.PATHS, lambda path: path.write_text(paths.read_text().replace("residual", "gone")))
    with pytest.raises(RunError, match=r"max_drop compares with the teacher.*or leave max_drop out of \[budget\]"):
        validate(run, strict, test=pictures / "test")
    assert not (exported / "targets" / "host-cpu" / "validation.json").exists()


def test_stages_out_of_order_say_what_to_run(exported: Path, target: Target, pictures: Path) -> None:
    run = Run.open(exported)
    with pytest.raises(RunError, match=r"Make it: edgeoe build .* --target host-cpu"):
        validate(run, target, test=pictures / "test")
    run.forget(layout.EXPORT)
    with pytest.raises(RunError, match="Make it: edgeoe export"):
        build(run, target)


def test_an_artifact_whose_typed_graph_is_gone_says_how_to_make_it(
    exported: Path, target: Target, pictures: Path
) -> None:
    run, rounded = Run.open(exported), replace(target, precision="int8")
    export(run, precisions=["int8"])
    build(run, rounded)
    run.forget(graph_file(rounded))
    with pytest.raises(RunError, match=r"Make it: edgeoe export .* --precision int8"):
        validate(run, rounded, test=pictures / "test")


def test_test_folders_must_be_of_the_same_classes(
    exported: Path, target: Target, pictures: Path, tmp_path: Path
) -> None:
    run = Run.open(exported)
    build(run, target)
    (tmp_path / "test" / "crosss").mkdir(parents=True)
    (tmp_path / "test" / "circle").mkdir()
    (tmp_path / "test" / "circle" / "0.png").write_bytes((pictures / "test" / "circle" / "00.png").read_bytes())
    with pytest.raises(DataError, match="Did you mean 'cross'"):
        validate(run, target, test=tmp_path / "test")


@pytest.mark.parametrize("spoil", ["another network's", "for an unknown runtime"])
def test_a_graph_that_fails_the_parity_gate_is_not_left_behind(
    spoil: str, exported: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(student: nn.Module, **options: Any) -> onnx.ModelProto:
        other = copy.deepcopy(student)
        if spoil == "another network's":
            nn.init.normal_(layer_of(other, "head").weight)
        graph = onnx_from_student(other, **options)
        if spoil == "for an unknown runtime":
            graph.ir_version = 99
        return graph

    monkeypatch.setattr("edgeoe.stages.export.onnx_from_student", spoilt)
    with pytest.raises(ExportError):
        export(Run.open(exported), exporter="legacy")
    for name in ("student.onnx", "export.json", "golden.safetensors"):
        assert not (exported / name).exists(), "nor what an earlier export had left"
    with pytest.raises(RunError, match="Make it: edgeoe export"):
        build(Run.open(exported), target)


def test_elsewhere_accuracy_is_judged_and_no_latency_is_measured(
    exported: Path, target: Target, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeoe.measure.artifact.measure_speed", None)
    run, away = Run.open(exported), replace(target, name="away", device=DeviceFacts(cpu="No Such Processor"))
    build(run, away)
    validation = validate(run, away, test=pictures / "test")
    measurement, verdict = validation.measurement, validation.verdict
    assert (measurement.speed, measurement.golden_agreement) == (None, 1.0)
    assert measurement.accuracy is not None
    assert measurement.not_measured.endswith(", away is for No Such Processor")
    assert [(check.name, check.outcome) for check in verdict.checks] == [
        ("golden_agreement", "passed"),
        ("device", "inconclusive"),
    ]
    record: dict[str, Any] = validation_json(run.read(layout.TargetFiles("away").validation))
    keys = ("latency_ms", "throughput_ips", "load_ms", "first_ms", "peak_memory_mb")
    assert {key: record[key] for key in keys} == dict.fromkeys(keys)
    assert (record["verdict"], record["noise"], record["intervals"]["speed"]) == ("inconclusive", [], None)
    page = report_page(read_report(run))
    assert "away is for No Such Processor" in page
    assert "Latency at batch" not in page
    assert "inconclusive on away" in markdown_of_validation(validation).replace("**", "").replace("\\", "")
    assert 'errors="1"' in junit_of_validation(validation)
    assert validate(run, replace(away, budget=Budget(top1=1.0)), test=pictures / "test").outcome == "failed"


def test_what_only_the_device_can_build_is_refused_with_the_way_out(exported: Path, pictures: Path) -> None:
    run, jetson = Run.open(exported), replace(load_target("jetson-orin-nano"), precision="fp32")
    for stage in (lambda: build(run, jetson), lambda: validate(run, jetson, test=pictures / "test")):
        with pytest.raises(BackendError) as raised:
            stage()
        assert str(raised.value).startswith("target jetson-orin-nano: not built here: this ")
        assert str(raised.value).endswith(
            f"a plan is built on the device that runs it. Take it to the device: edgeoe bundle {exported} "
            "--target jetson-orin-nano -o jetson-orin-nano.tar.gz --test DIR"
        )
    assert not (exported / "targets").exists()


def test_a_runtime_that_only_the_device_has_is_refused_with_the_way_out(exported: Path, target: Target) -> None:
    runtime = RuntimeSettings(provider="openvino", unit="gpu")
    away = replace(target, device=DeviceFacts(cpu="No Such Processor"), runtime=runtime)
    with pytest.raises(BackendError, match=r"not built here: .*; provider = 'openvino'.* edgeoe bundle .*host-cpu"):
        build(Run.open(exported), away)
    told = r"^provider = 'openvino': this onnxruntime has .*; if the device is another machine, say so in \[device\]"
    with pytest.raises(BackendError, match=told):
        build(Run.open(exported), replace(away, device=DeviceFacts()))
