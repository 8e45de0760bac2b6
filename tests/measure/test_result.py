"""A result travels as one file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from made_up import result, speed

from edgeoe.errors import RunError
from edgeoe.measure.result import read_result, write_result


def test_what_is_written_is_read(tmp_path: Path) -> None:
    own = result(speed=speed(throughput_ips={1: (1.0,) * 8, 8: (3.0,) * 8}, disturbed=("others used 90 %",)))
    write_result(tmp_path / "r.json", own)
    back = read_result(tmp_path / "r.json")
    assert back.predictions is not None
    assert own.predictions is not None
    assert back.predictions.to_json() == own.predictions.to_json()
    assert dataclasses.replace(back, predictions=None) == dataclasses.replace(own, predictions=None)


def test_a_device_without_test_images_has_no_predictions(tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", result(predictions=None))
    assert read_result(tmp_path / "r.json").predictions is None


def _without(key: str) -> Any:
    return lambda data: {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    "spoil",
    [
        _without("speed"),
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
    with pytest.raises(RunError, match=r"r\.json: not a result of this edgeoe"):
        read_result(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"r\.json: no such file"):
        read_result(tmp_path / "r.json")
