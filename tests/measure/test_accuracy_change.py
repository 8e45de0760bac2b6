"""What became of accuracy, image by image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeoe.measure.accuracy_change import accuracy_changes
from edgeoe.records.comparison import AccuracyChange
from edgeoe.records.measurement import Estimate


def predictions(n: int, *, lost: int, gained: int, wrong: int = 0) -> tuple[NDArray[np.int64], ...]:
    """base, new and labels of n images of two classes in turn, of which new alone gets `gained` right."""
    labels = np.arange(n) % 2
    base, new = labels.copy(), labels.copy()
    new[:lost] = 2
    base[lost : lost + gained] = 2
    base[lost + gained :][:wrong] = new[lost + gained :][:wrong] = 2
    return base, new, labels


def compare(*predicted: NDArray[np.int64], rare: tuple[int, ...] = (), tolerance: float = 0.01) -> list[AccuracyChange]:
    classes = ("ant", "bee", "cow")
    base, new, labels = predicted
    changes = accuracy_changes(base, new, labels, classes=classes, rare=rare, tolerance=tolerance, class_tolerance=0.05)
    return list(changes)


@pytest.mark.parametrize(
    ("n", "lost", "gained", "change"),
    [
        (1000, 40, 2, "regressed"),  # sure, and 3.8 points
        (1000, 2, 40, "improved"),
        (20000, 60, 10, "no worse"),  # sure, and at most 0.33 points
        (1000, 0, 0, "no worse"),
        (300, 0, 0, "inconclusive"),  # nothing differs, but 1.3 points could
        (1000, 10, 0, "inconclusive"),  # sure, 1.0 points, up to 1.8
        (100, 5, 0, "inconclusive"),  # 5 points, p = 0.06
        (1000, 0, 9, "no worse"),  # sure, yet less than what would count
    ],
)
def test_a_change_of_top1_is_told_by_test_and_interval(n: int, lost: int, gained: int, change: str) -> None:
    (row,) = compare(*predictions(n, lost=lost, gained=gained, wrong=n // 20))
    assert (row.subject, row.images, row.only_base, row.only_new) == ("top-1", n, lost, gained)
    assert row.difference.value == pytest.approx((gained - lost) / n)
    assert row.change == change
    assert row.reason.startswith("not enough test images") if change == "inconclusive" else row.reason == ""


def test_too_few_images_are_told_what_they_leave_open() -> None:
    (row,) = compare(*predictions(300, lost=0, gained=0))
    assert row.reason == "not enough test images to tell: 300 images, the loss may be as much as 1.3 points, allowed 1"


def test_mcnemars_p_value_is_exact() -> None:
    (row,) = compare(*predictions(500, lost=7, gained=1))
    assert row.p_value == pytest.approx(2 * (1 + 8) / 2**8)


def test_rare_classes_follow_top1_and_those_without_images_are_left_out() -> None:
    base, new, labels = predictions(200, lost=0, gained=0)
    new[labels == 1] = 2
    rows = compare(base, new, labels, rare=(2, 1, 0))
    assert [(row.subject, row.images, row.tolerance) for row in rows] == [
        ("top-1", 200, 0.01),
        ("bee", 100, 0.05),
        ("ant", 100, 0.05),
    ]
    assert [row.change for row in rows] == ["regressed", "regressed", "no worse"]


def test_a_class_among_many_needs_more_than_its_own_alpha() -> None:
    base, new, labels = predictions(200, lost=0, gained=0)
    new[:16:2] = 2  # 8 of the 100 ants: p = 0.0078, twice that with a row for top-1 as sure
    rows = compare(base, new, labels, rare=(0,))
    assert [row.p_value for row in rows] == pytest.approx([2 / 2**8] * 2)
    assert [row.change for row in rows] == ["inconclusive"] * 2
    assert [row.change for row in compare(base, new, labels)] == ["regressed"]


@given(st.integers(30, 400), st.integers(0, 15), st.integers(0, 15))
def test_swapping_the_two_swaps_what_they_lost(n: int, lost: int, gained: int) -> None:
    base, new, labels = predictions(n, lost=lost, gained=gained)
    for there, back in zip(
        compare(base, new, labels, rare=(0, 1)), compare(new, base, labels, rare=(0, 1)), strict=True
    ):
        assert (there.only_base, there.only_new) == (back.only_new, back.only_base)
        assert there.p_value == back.p_value
        assert there.difference == Estimate(-back.difference.value, -back.difference.high, -back.difference.low)
        assert (there.change == "regressed") == (back.change == "improved")


def test_predictions_that_do_not_fit_are_refused() -> None:
    base, new, labels = predictions(30, lost=1, gained=0)
    for rows in (
        (base[:-1], new, labels),
        (base, new[:-1], labels),
        (base[:0], new[:0], labels[:0]),
        (base[None],) * 3,
    ):
        with pytest.raises(ValueError, match="one class for each"):
            compare(*rows)
    for tolerance in (-0.01, 1.5, np.nan):
        with pytest.raises(ValueError, match="tolerance"):
            compare(base, new, labels, tolerance=tolerance)
