"""What is learned of a table from students that were measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.methods.cuts.correction import Correction
from edgeoe.pruning.programme import Choice, Option, Programme, Resource

TEACHER_MS = 10.0
NAMES = ("a", "b", "c", "d")


def programme(alike: bool = False) -> Programme:
    """Four groups of two widths; a and b are alike, or all differ."""
    each = [0.9, 0.9, 1.1, 1.3] if alike else [0.9, 1.0, 1.1, 1.3]
    choices = tuple(Choice(name, tuple(Option(float(at), {}) for at in range(3))) for name in NAMES)
    savings = {name: (0.0, ms / 2, ms) for name, ms in zip(NAMES, each, strict=True)}
    return Programme(choices, (Resource(savings, {}),))


def correction_of(of: Programme, limit: float = 8.0) -> Correction:
    return Correction(of, 0, total=TEACHER_MS, cost=TEACHER_MS, limit=limit)


def predicted(correction: Correction, of: Programme, taken: dict[str, int]) -> float:
    resource, offset = correction.resource()
    return TEACHER_MS - Programme(of.choices, (resource,)).saved(taken)[0] - offset


def saved(correction: Correction, name: str) -> float:
    return correction.resource()[0].savings[name][2]


def test_without_measurements_the_table_is_believed() -> None:
    of = programme()
    resource, offset = correction_of(of).resource()
    assert offset == 0.0
    for name in NAMES:
        assert resource.savings[name] == pytest.approx(of.resources[0].savings[name])


def test_savings_are_in_the_units_of_the_limit() -> None:
    """A teacher of 10 ms in the table, and of 0.02 seconds an image."""
    of = programme()
    resource, _ = Correction(of, 0, total=TEACHER_MS, cost=0.02, limit=0.01).resource()
    assert resource.savings["a"] == pytest.approx((0.0, 0.0009, 0.0018))


@given(
    taken=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 2), min_size=1),
    factor=st.floats(0.3, 1.5),
)
def test_a_student_that_was_measured_near_the_limit_is_predicted_as_measured(
    taken: dict[str, int], factor: float
) -> None:
    of = programme()
    cost = TEACHER_MS - factor * of.saved(taken)[0]
    correction = correction_of(of, limit=cost)
    table = predicted(correction, of, taken)
    correction.observe(taken, cost)
    corrected = predicted(correction, of, taken)
    assert abs(corrected - cost) <= 0.05 * abs(table - cost) + 0.012 * TEACHER_MS
    assert abs(corrected - cost) <= abs(table - cost) + 1e-9


def test_an_option_that_saved_less_is_believed_less_than_one_that_was_not_taken() -> None:
    of = programme()
    correction = correction_of(of)
    correction.observe({"a": 2, "b": 2}, TEACHER_MS - 1.0)  # the table says 1.9
    assert saved(correction, "a") < saved(correction, "c") * 0.9 / 1.1
    assert saved(correction, "c") < 1.1, "a part of the error is that of the whole table"


def test_alike_options_share_their_error() -> None:
    ratios = []
    for alike in (False, True):
        of = programme(alike)
        correction = correction_of(of)
        correction.observe({"a": 2}, TEACHER_MS - 0.3)
        ratios.append(saved(correction, "b") / of.resources[0].savings["b"][2])
    assert ratios[1] < ratios[0]


def test_what_is_measured_far_from_the_limit_says_less_of_it() -> None:
    of, taken = programme(), {"a": 2, "b": 2, "c": 2, "d": 2}
    cost = TEACHER_MS - 2.0
    near, far = correction_of(of, limit=cost), correction_of(of, limit=cost / 3)
    for correction in (near, far):
        correction.observe(taken, cost)
    assert predicted(near, of, taken) > predicted(far, of, taken) > predicted(correction_of(of), of, taken)


def test_options_that_narrow_one_layer_count_for_what_they_save_together() -> None:
    """Two halves of a layer save three quarters of it: measured so, the table is right."""
    choices = tuple(Choice(name, (Option(0.0, {}), Option(1.0, {"conv": 0.5}))) for name in ("in", "out"))
    of = Programme(choices, (Resource({"in": (0.0, 2.0), "out": (0.0, 2.0)}, {"conv": 4.0}),))
    correction = correction_of(of)
    correction.observe({"in": 1, "out": 1}, TEACHER_MS - 3.0)
    assert correction.resource()[0].savings["in"] == pytest.approx((0.0, 2.0))


def test_measurements_that_contradict_each_other_are_averaged() -> None:
    of, taken = programme(), {"a": 2, "d": 2}
    correction = correction_of(of)
    for cost in (7.9, 8.1, 8.0):
        correction.observe(taken, cost)
    assert predicted(correction, of, taken) == pytest.approx(8.0, abs=0.05)
    assert np.isfinite(correction.resource()[1])
