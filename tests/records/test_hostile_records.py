"""Records from elsewhere: whatever stands in place of a value, it is refused by name, or it is a value of its kind."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up import result

from edgeoe.codec import from_json, record_text, to_json
from edgeoe.errors import RunError
from edgeoe.records.measurement import Validation
from edgeoe.records.result import FORMAT, Result
from edgeoe.run.result_file import read_result
from edgeoe.stages.validate import conclude

HOSTILE: tuple[Any, ...] = (
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -0.5,
    10**9,
    10**400,
    1e-320,
    None,
    True,
    "x",
    "",
    [],
    {},
    [[[]]],
)
FREE = ("environment", "settings", "watched", "options")  # facts of any kind, which are only shown

RECORDS: dict[str, tuple[type[Any], Callable[[], Any]]] = {
    "result": (Result, result),
    "validation": (
        Validation,
        lambda: conclude(result(), result().target, teacher=None, random_weights=False),
    ),
}


def leaves(data: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in `data`, of lists that to the first and the last."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, (*way, key))
    elif isinstance(data, list):
        for at in sorted({0, len(data) - 1}) if data else ():
            yield from leaves(data[at], (*way, at))
    if way:
        yield way


def replaced(data: Any, way: tuple[Any, ...], value: Any) -> Any:
    data = copy.deepcopy(data)
    part = data
    for key in way[:-1]:
        part = part[key]
    part[way[-1]] = value
    return data


@pytest.mark.parametrize("name", RECORDS)
def test_no_value_passes_that_is_not_of_its_kind(name: str) -> None:
    kind, make = RECORDS[name]
    data = json.loads(json.dumps(to_json(make())))
    ways = [way for way in leaves(data) if not set(way) & set(FREE)]
    assert len(ways) > 50
    refused = 0
    for way in ways:
        for value in HOSTILE:
            try:
                made = from_json(kind, replaced(data, way, value))
            except ValueError as reason:
                refused += 1
                lines = str(reason).splitlines()
            else:
                lines = json.dumps(to_json(made), allow_nan=False).splitlines()
            assert len(lines) == 1
    assert refused > len(ways) * len(HOSTILE) / 2


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (("speed", "calls_ms", 0, 0), -1.0, r"speed\.calls_ms\[0\]\[0\]: expected more than 0"),
        (("speed", "calls_ms", 0, 0), 0.0, r"speed\.calls_ms\[0\]\[0\]: expected more than 0"),
        (("speed", "load_ms", 7), -3.0, r"speed\.load_ms\[7\]: expected more than 0"),
        (("speed", "throughput_ips"), {"-1": [1.0] * 8, "1": [1.0] * 8}, "expected batch sizes of at least 1"),
        (("predictions", "labels", 0), 10**9, "predictions: expected indices below 3, the number of classes"),
        (("predictions", "chosen", 0), 2**63, "the number 9223372036854775808 has more than 64 bits"),
        (("rare", 0), 3, "rare: expected indices below 3"),
        (("size_bytes",), 0, "size_bytes: expected at least 1"),
        (("golden_agreement",), 1.5, "golden_agreement: expected at most 1"),
        (("artifact",), "..", "artifact: expected a file name"),
        (("environment", "versions"), [0], r"environment\.versions: expected an object"),
    ],
)
def test_a_result_is_refused_by_name(way: tuple[Any, ...], value: Any, message: str, tmp_path: Path) -> None:
    data = replaced(json.loads(record_text(result(), format=FORMAT)), way, value)
    (tmp_path / "result.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match=message):
        read_result(tmp_path / "result.json")


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (("measurement", "speed", "latency", "p50", "value"), -1.0, r"latency\.p50: expected a positive value"),
        (("measurement", "speed", "load_ms", "low"), -1.0, r"speed\.load_ms: expected a positive value"),
        (("measurement", "accuracy", "rare_classes", 0), 10**9, r"rare_classes: expected indices below 3"),
        (("measurement", "accuracy", "images_per_class"), [1], "images_per_class: 1 values for 3 classes"),
        (("classes",), ["a"], r"recall_per_class: 3 values for 1 classes"),
    ],
)
def test_a_validation_is_refused_by_name(way: tuple[Any, ...], value: Any, message: str) -> None:
    data = json.loads(json.dumps(to_json(RECORDS["validation"][1]())))
    with pytest.raises(ValueError, match=message):
        from_json(Validation, replaced(data, way, value))
