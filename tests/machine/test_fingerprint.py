"""Two machines differ in what a latency depends on, and in nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.machine.fingerprint import FINGERPRINT, differing

ENVIRONMENTS = st.fixed_dictionaries(
    {},
    optional={
        **{field: st.sampled_from(["a", "b", None, 1, ["avx"]]) for field in FINGERPRINT},
        "load_1min": st.floats(0, 9),
        "system": st.text(max_size=2),
        "versions": st.dictionaries(
            st.sampled_from(["python", "edgeoe", "onnx", "onnxruntime", "openvino", "tensorrt", "cuda", "driver"]),
            st.sampled_from(["1", "2"]),
        ),
    },
)


@given(ENVIRONMENTS)
def test_nothing_differs_from_itself(one: dict[str, Any]) -> None:
    assert differing(one, json.loads(json.dumps(one))) == []


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_the_other_way_round_the_same_fields_differ(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert differing(two, one) == [(field, now, was) for field, was, now in differing(one, two)]


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_every_difference_is_one_told_once(one: dict[str, Any], two: dict[str, Any]) -> None:
    found = differing(one, two)
    assert all(was != now for _, was, now in found)
    assert len({field for field, _, _ in found}) == len(found)


@given(ENVIRONMENTS, st.sampled_from(FINGERPRINT))
def test_each_field_of_the_fingerprint_counts(one: dict[str, Any], field: str) -> None:
    assert differing(one, {**one, field: "another"}) == [(field, one.get(field), "another")]
    assert differing({**one, field: "another"}, {**one, field: None}) == [(field, "another", None)]


@given(ENVIRONMENTS, st.dictionaries(st.sampled_from(["load_1min", "memory_mb", "system"]), st.integers()))
def test_nothing_else_does(one: dict[str, Any], changes: dict[str, int]) -> None:
    assert differing(one, {**one, **changes}) == []


def test_unknown_on_one_side_differs_and_on_both_does_not() -> None:
    assert differing({"governor": "performance"}, {}) == [("governor", "performance", None)]
    assert differing({"governor": None}, {}) == []


@pytest.mark.parametrize(
    ("base", "new", "differs"),
    [
        ({"onnxruntime": "1.30"}, {"onnxruntime": "1.31"}, [("onnxruntime", "1.30", "1.31")]),
        ({"tensorrt": "10.3", "cuda": "12.6"}, {"tensorrt": "10.16", "cuda": "13.2"},
         [("cuda", "12.6", "13.2"), ("tensorrt", "10.3", "10.16")]),
        ({"openvino": "2025.1"}, {}, [("openvino", "2025.1", None)]),
        ({"python": "3.10", "edgeoe": "1", "onnx": "1.18"}, {"python": "3.12", "edgeoe": "2", "onnx": "1.19"}, []),
        ({"onnxruntime": "1.30"}, None, []),
    ],
)  # fmt: skip
def test_versions_of_what_runs_count(
    base: dict[str, str], new: dict[str, str] | None, differs: list[tuple[str, Any, Any]]
) -> None:
    assert differing({"versions": base}, {"versions": new} if new is not None else {}) == differs


def test_a_driver_that_is_told_twice_differs_once() -> None:
    base, new = ({"driver": number, "versions": {"driver": number}} for number in ("550", "560"))
    assert differing(base, new) == [("driver", "550", "560")]


@pytest.mark.parametrize(
    "field",
    [
        *("machine", "board", "cpu", "cpu_flags", "cores", "cpu_limit", "governor", "energy_preference", "cpu_max_mhz"),
        *("turbo", "power_mode", "jetson_clocks", "gpu", "driver", "gpu_max_mhz", "gpu_power_limit_w"),
    ],
)
def test_machines_that_differ_in_what_sets_their_speed_are_told_apart(field: str) -> None:
    assert differing({field: 1}, {field: 2}) == [(field, 1, 2)]
