"""A result travels as one file."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from made_up import result, speed

from edgeoe.codec import from_json
from edgeoe.errors import RunError
from edgeoe.records.result import Predictions
from edgeoe.run.result_file import artifact_folder, artifact_of, read_result, write_result


def test_what_is_written_is_read(tmp_path: Path) -> None:
    own = result(speed=speed(throughput_ips={1: (1.0,) * 8, 8: (3.0,) * 8}, disturbed=("others used 90 %",)))
    write_result(tmp_path / "r.json", own)
    assert read_result(tmp_path / "r.json") == own


def test_a_device_without_test_images_has_no_predictions(tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", result(predictions=None))
    assert read_result(tmp_path / "r.json").predictions is None


def _without(key: str) -> Any:
    return lambda data: {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    "spoil",
    [
        _without("speed"),
        lambda data: {**data, "speed": {**data["speed"], "calls_ms": [1.0]}},
        _without("format"),
        _without("artifact_sha256"),
        lambda data: {**data, "format": 99},
        lambda data: {**data, "more": 1},
        lambda data: {**data, "target": {}},
        lambda data: {**data, "speed": {**data["speed"], "calls_ms": None}},
        lambda data: [],
        lambda data: {**data, "rare": [3]},
        lambda data: {**data, "artifact": "../model.onnx"},
        lambda data: {**data, "artifact_sha256": "short"},
        lambda data: {**data, "speed": {**data["speed"], "calls_ms": []}},
        lambda data: {**data, "speed": {**data["speed"], "calls_ms": [[1.0], []]}},
        lambda data: {**data, "speed": {**data["speed"], "load_ms": [1.0]}},
        lambda data: {**data, "speed": {**data["speed"], "first_ms": [float("nan")] * 8}},
        lambda data: {**data, "predictions": {**data["predictions"], "chosen": [0]}},
        lambda data: {**data, "predictions": {**data["predictions"], "labels": [3] * 100}},
    ],
)
def test_what_is_no_result_is_refused_in_one_line(spoil: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_result(path, result())
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(RunError, match=r"r\.json: not a result of this version of edgeoe"):
        read_result(path)


@pytest.mark.parametrize(
    ("chosen", "labels", "fit"),
    [((2, 0), (0, 2), True), ((3, 0), (0, 0), False), ((0, 0), (0, 3), False)],
)
def test_predictions_are_of_the_results_classes(chosen: tuple[int, ...], labels: tuple[int, ...], fit: bool) -> None:
    with nullcontext() if fit else pytest.raises(ValueError, match="predictions: expected indices below 3"):
        result(predictions=Predictions(chosen, labels, "1" * 64))


@pytest.mark.parametrize(("chosen", "labels"), [([-1], [0]), ([0], [-1])])
def test_a_class_below_0_is_none(chosen: list[int], labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"(chosen|labels)\[0\]"):
        from_json(Predictions, {"chosen": chosen, "labels": labels, "test_sha256": "1" * 64})


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"r\.json: no such file"):
        read_result(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("calls_ms", [], "calls_ms: expected calls of at least 2 processes, at least one each"),
        ("calls_ms", [[1.0], []], "calls_ms: expected calls of at least 2 processes, at least one each"),
        ("calls_ms", [[1.0, -2.0]], "calls_ms[0][1]: expected more than 0. Got -2.0"),
        ("calls_ms", [[None]], "calls_ms[0][0]: expected a number. Got null"),
        ("calls_ms", [[True]], "calls_ms[0][0]: expected a number. Got true"),
        ("load_ms", [0], "load_ms[0]: expected more than 0. Got 0.0"),
        ("first_ms", [], "first_ms: 0 values for 8 processes"),
        ("load_ms", [1.0] * 7, "load_ms: 7 values for 8 processes"),
        ("peak_memory_mb", [1.0] * 9, "peak_memory_mb: 9 values for 8 processes"),
        ("throughput_ips", {"1": [1.0]}, "throughput_ips.1: 1 values for 8 processes"),
        ("throughput_ips", {"1": [1.0] * 8, "4": [1.0] * 7}, "throughput_ips.4: 7 values for 8 processes"),
        ("throughput_ips", {}, "throughput_ips: no rates for the batch size 1"),
        ("throughput_ips", {"1": [-1]}, "throughput_ips.1[0]: expected more than 0. Got -1.0"),
    ],
)
def test_what_no_clock_ever_showed_is_refused_by_field(field: str, value: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_result(path, result())
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "speed": {**data["speed"], field: value}}))
    with pytest.raises(RunError) as raised:
        read_result(path)
    assert str(raised.value) == f"{path}: not a result of this version of edgeoe (speed.{told})."


@pytest.mark.parametrize(("value", "told"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_what_is_no_number_is_no_json(value: float, told: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_result(path, result())
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "speed": {**data["speed"], "load_ms": [value]}}))
    with pytest.raises(RunError) as raised:
        read_result(path)
    assert str(raised.value) == f"{path}: not a result of this version of edgeoe ({told} is no number in JSON)."


@pytest.mark.parametrize("key", ["environment", "settings", "size_bytes", "artifact"])
def test_a_field_of_another_kind_is_refused(key: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_result(path, result())
    path.write_text(json.dumps({**json.loads(path.read_text()), key: [1]}))
    with pytest.raises(
        RunError, match=rf"r\.json: not a result of this version of edgeoe \({key}: expected .*\. Got \[1\]\)\."
    ):
        read_result(path)


def test_a_verdict_is_told_from_a_result(tmp_path: Path) -> None:
    path = tmp_path / "validation.json"
    path.write_text(json.dumps({"verdict": "passed", "checks": []}))
    with pytest.raises(RunError) as raised:
        read_result(path)
    assert str(raised.value).startswith(f"{path}: a verdict, as validate and collect write it, not a result. ")
    assert "result.json that run.py wrote on the device" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"), [("{", "Expecting"), ("[]", "expected an object"), ("{}", "format must be 1")]
)
def test_what_a_file_is_instead_is_told(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(RunError, match=rf"r\.json: not a result of this version of edgeoe \({told}"):
        read_result(tmp_path / "r.json")


def test_where_nothing_was_measured_there_is_no_speed(tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", result(speed=None))
    assert read_result(tmp_path / "r.json").speed is None


def test_the_artifact_is_where_a_bundle_keeps_it_or_beside(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    assert artifact_of(path, result()) == tmp_path / "model.onnx"
    artifact_folder(path).mkdir()
    (artifact_folder(path) / "model.onnx").touch()
    assert artifact_of(path, result()) == tmp_path / "mine-artifact" / "model.onnx"


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b"])
def test_an_artifact_is_a_file_name_and_no_path(name: str) -> None:
    with pytest.raises(ValueError, match=r"artifact: expected a file name"):
        result(artifact=name)
