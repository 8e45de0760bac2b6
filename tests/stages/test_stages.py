"""Each stage reads the run, refuses what was changed, and leaves no half result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeoe.errors import DataError, ExportError, RunError
from edgeoe.pipeline import build, export, validate
from edgeoe.records import MeasureSettings, Target
from edgeoe.run import Run
from edgeoe.stages import export as export_stage
from edgeoe.stages.facts import run_facts
from edgeoe.targets import load_target


@pytest.fixture
def target() -> Target:
    quick = MeasureSettings(warmup_seconds=0.01, min_seconds=0.05, min_iterations=20)
    return replace(load_target("host-cpu"), measure=quick)


def test_export_keeps_golden_outputs_of_every_class_first(exported: Path) -> None:
    run = Run.open(exported)
    golden = run.read_tensors("golden.safetensors", made_by="export")
    record = json.loads((exported / "export.json").read_text())
    assert record["images"] == len(golden["images"]) == len(golden["logits"]) == 18
    assert record["agreement"] == 1.0
    assert run_facts(run).counts == (12, 5, 1)
    pixels = run.read_tensors("probe.safetensors", made_by="compress")["pixels"]
    assert len(np.unique(pixels[:3].reshape(3, -1), axis=0)) == 3


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
    with pytest.raises(RunError, match="not the file that edgeoe wrote"):
        validate(run, target, test=pictures / "test")


def test_validation_stores_its_raw_calls(exported: Path, target: Target, pictures: Path) -> None:
    run = Run.open(exported)
    build(run, target)
    measurement, _ = validate(run, target, test=pictures / "test")
    folder = exported / "targets" / "host-cpu"
    calls = json.loads((folder / "latency.json").read_text())["calls_ms"]
    assert len(calls) == measurement.latency.n
    record = json.loads((folder / "validation.json").read_text())
    assert record["latency_ms"]["p50"] in calls
    assert record["images_per_class"] == [10, 10, 10]
    assert record["rare_classes"] == ["square", "cross", "circle"]


def test_stages_out_of_order_say_what_to_run(exported: Path, target: Target, pictures: Path) -> None:
    run = Run.open(exported)
    with pytest.raises(RunError, match=r"Make it: edgeoe build .* --target host-cpu"):
        validate(run, target, test=pictures / "test")
    run.forget("export.json")
    with pytest.raises(RunError, match="Make it: edgeoe export"):
        build(run, target)


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


def test_a_graph_that_fails_the_parity_gate_is_not_left_behind(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ExportError("not the same")

    monkeypatch.setattr(export_stage, "check_parity", refuse)
    with pytest.raises(ExportError):
        export(Run.open(exported))
    assert not list(exported.glob("*.onnx"))
    assert not (exported / "export.json").exists()
