"""compare --test takes no result at its word: both artifacts predict the images that lie here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_up import QUICK, result

from edgeoe.backends.onnxruntime import OnnxRuntime
from edgeoe.errors import BackendError, RunError
from edgeoe.files import file_sha256
from edgeoe.measure.interleaved import Round
from edgeoe.pipeline import build
from edgeoe.records.result import Predictions
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.stages import compare as stage
from edgeoe.stages.baseline import Store
from edgeoe.stages.compare import GateSettings, compare
from edgeoe.stages.sides import Side, find_side
from edgeoe.stages.tested import predict_here
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=QUICK)


@pytest.fixture
def run(exported: Path, target: Target) -> Run:
    """A run that was built, and whose result claims to be right on every image."""
    run = Run.open(exported)
    build(run, target)
    return run


@pytest.fixture
def no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_round(base: Path, new: Path, target: Target, number: int) -> Round:
        calls = tuple(np.linspace(1, 1.01 + number / 1000, 50).tolist())
        return Round((calls,), (calls,))

    monkeypatch.setattr(stage, "measure_round", measure_round)


def claim(run: Run, right: int, *, images: int = 400) -> None:
    """Write a result into `run` that reports `right` of `images` as right."""
    artifact = run.path / "targets/host-cpu/model.onnx"
    facts = run.read(layout.FACTS)
    predictions = Predictions((0,) * right + (1,) * (images - right), (0,) * images, "1" * 64)
    reported = replace(
        result(artifact=artifact.name, artifact_sha256=file_sha256(artifact)),
        classes=facts.classes,
        predictions=predictions,
    )
    run.save(layout.TargetFiles("host-cpu").result, reported)


def test_a_reported_gain_counts_only_where_nothing_is_tested(
    run: Run, target: Target, pictures: Path, no_latency: None, tmp_path: Path
) -> None:
    claim(run, 200)
    base = find_side(str(run.path), target, Store(tmp_path))
    claim(run, 400)
    new = find_side(str(run.path), target, Store(tmp_path))
    (reported,) = compare([(target, base, new)], GateSettings())
    assert (reported.accuracy[0].change, reported.accuracy_from) == ("improved", "as reported")
    assert reported.latency_from == "measured here"
    (tested,) = compare([(target, base, new)], GateSettings(), test=pictures / "test")
    top1 = tested.accuracy[0]
    assert (top1.images, top1.only_base, top1.only_new, tested.accuracy_from) == (30, 0, 0, "measured here")


def test_what_new_says_of_rare_classes_does_not_count(
    run: Run, target: Target, no_latency: None, tmp_path: Path
) -> None:
    claim(run, 200)
    base = find_side(str(run.path), target, Store(tmp_path))
    assert base.result is not None
    new = replace(base, result=replace(base.result, rare=()))
    (made,) = compare([(target, base, new)], GateSettings())
    assert {row.subject for row in made.accuracy} == {
        "top-1",
        *(base.result.classes[k] for k in base.result.rare if k == 0),
    }
    swapped = replace(base, result=replace(base.result, classes=base.result.classes[::-1]))
    (made,) = compare([(target, base, swapped)], GateSettings())
    assert made.notes == ("accuracy is not compared: the two have different classes",)


def test_labels_of_new_do_not_count(run: Run, target: Target, no_latency: None, tmp_path: Path) -> None:
    claim(run, 400)
    base = find_side(str(run.path), target, Store(tmp_path))
    assert base.result is not None
    assert base.result.predictions is not None
    claimed = replace(base.result.predictions, chosen=(1,) * 400, labels=(1,) * 400)
    new = replace(base, result=replace(base.result, predictions=claimed))
    (made,) = compare([(target, base, new)], GateSettings())
    assert (made.accuracy, made.notes) == ((), ("accuracy is not compared: the two were tested on different images",))


def test_a_graph_brings_its_own_preprocessing(run: Run, target: Target, pictures: Path) -> None:
    artifact = run.path / "targets/host-cpu/model.onnx"
    alone = Side(name="alone", artifact=artifact, result=None)
    in_run = Side(name="in run", artifact=artifact, result=None, run=run)
    tested = predict_here(in_run, alone, target, test=pictures / "test")
    assert tested.base == tested.new
    assert tested.classes == ("circle", "cross", "square")
    assert tested.rare == (2, 1, 0)
    assert predict_here(alone, in_run, target, test=pictures / "test").rare == ()


def without_notes(path: Path) -> Path:
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path.with_name("bare.onnx"))
    return path.with_name("bare.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda side: replace(side, artifact=None), "only a result is at hand, and --test needs the artifact"),
        (lambda side: replace(side, run=None, artifact=without_notes(side.artifact)), "says nothing of its classes"),
        (lambda side: replace(side, result=result(classes=("a", "b", "c", "d"))), "its classes are a, b, c, d, and"),
    ],
)
def test_what_can_not_be_tested_is_told(
    change: Callable[[Side], Side], message: str, run: Run, target: Target, pictures: Path
) -> None:
    side = Side(name="one", artifact=run.path / "targets/host-cpu/model.onnx", result=None, run=run)
    with pytest.raises(RunError, match=message):
        predict_here(side, change(side), target, test=pictures / "test")


def test_a_program_is_run_neither_to_time_it_nor_to_test_it(
    run: Run, target: Target, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntime, "open", lambda *_: pytest.fail("it was opened"))
    path = run.path / "foreign.onnx"
    model = onnx.load(run.path / "targets/host-cpu/model.onnx")
    model.graph.node[0].domain = "com.example"
    onnx.save(model, path)
    side = Side(name="one", artifact=path, result=result())
    for options in ({}, {"test": pictures / "test"}, {"test": pictures / "test", "stored": True}):
        with pytest.raises(BackendError, match=r"of the foreign domain 'com\.example'"):
            compare([(target, side, side)], GateSettings(), **options)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("classes", "5", "its classes are no list of names"),
        ("classes", '["a", {}]', "its classes are no list of names"),
        ("classes", "[" * 100_000, "says nothing of its classes"),
        ("classes", "NaN", "says nothing of its classes"),
        ("preprocess", "[]", "its preprocessing is not in the format of this edgeoe"),
        (
            "preprocess",
            {"size": [0, 16]},
            r"not in the format of this edgeoe \(Preprocess\.size\[0\]: expected at least 1",
        ),
        (
            "preprocess",
            {"size": [10**6, 10**6]},
            "size: expected at most 134,217,728 pixels. Got 1,000,000 x 1,000,000",
        ),
        ("preprocess", {"std": [0.0] * 3}, r"std\[0\]: expected more than 0"),
        ("preprocess", {"mean": [0.5] * 2, "std": [0.5] * 2}, "mean and std: expected 1 or 3 values each. Got 2 and 2"),
        ("preprocess", {"crop_fraction": 0}, "crop_fraction: expected more than 0"),
    ],
)
def test_what_a_graph_notes_may_be_anything(
    key: str, text: object, said: str, run: Run, target: Target, pictures: Path, tmp_path: Path
) -> None:
    graph = onnx.load(run.path / "targets/host-cpu/model.onnx")
    (entry,) = (entry for entry in graph.metadata_props if entry.key == f"edgeoe.{key}")
    entry.value = text if isinstance(text, str) else json.dumps({**json.loads(entry.value), **text})  # type: ignore[dict-item]
    onnx.save(graph, tmp_path / "new.onnx")
    base, new = (find_side(str(path), target, Store(tmp_path)) for path in (run.path, tmp_path / "new.onnx"))
    with pytest.raises(RunError, match=said):
        predict_here(base, new, target, test=pictures / "test")


def test_what_a_run_says_of_its_images_may_be_anything(
    run: Run, target: Target, pictures: Path, tmp_path: Path
) -> None:
    facts = json.loads((run.path / layout.FACTS.name).read_text())
    facts["preprocess"] |= {"mean": [], "std": []}
    run.write(layout.FACTS, lambda path: path.write_text(json.dumps(facts)))
    side = find_side(str(run.path), target, Store(tmp_path))
    with pytest.raises(RunError, match=r"format of this version .* expected 1 or 3 values each\. Got 0 and 0"):
        predict_here(side, side, target, test=pictures / "test")
