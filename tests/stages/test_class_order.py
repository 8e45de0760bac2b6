"""The order of the teacher's outputs, from what it says of labelled images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from edgeoe.stages.class_order import find_order, mcnemar_p

CLASSES = ("ant", "bee", "cat", "dog")


def says(outputs: list[int], *, classes: int = len(CLASSES), sure: float = 0.9) -> NDArray[np.float32]:
    """(N, K) probabilities of a teacher that is `sure` of these outputs."""
    rest = (1 - sure) / (classes - 1)
    return np.where(np.eye(classes, dtype=bool)[outputs], sure, rest).astype(np.float32)


def labelled(*, each: int, classes: int = len(CLASSES)) -> NDArray[np.int64]:
    return np.repeat(np.arange(classes), each)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_the_p_value_is_that_of_an_exact_binomial_test(judged: list[tuple[bool, bool]]) -> None:
    one, other = np.array(judged, bool).reshape(-1, 2).T
    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_p(one, other) == pytest.approx(expected)
    assert mcnemar_p(other, one) == mcnemar_p(one, other)


@given(st.permutations(range(4)), st.integers(8, 15))
def test_a_shuffled_teacher_is_put_right(outputs: list[int], each: int) -> None:
    """outputs[k]: the output that is the teacher's for class k."""
    labels = labelled(each=each)
    order = find_order(says([outputs[k] for k in labels]), labels, CLASSES)
    if outputs == [0, 1, 2, 3]:
        assert order is None
        return
    assert order is not None
    assert [order.classes[output] for output in outputs] == [*CLASSES]
    assert (order.right, order.by, order.guessed) == (len(labels), "", ())


def test_the_order_of_the_numbers_in_names_is_preferred_and_named() -> None:
    classes = ("1", "10", "2")  # as folders are listed
    labels = labelled(each=8, classes=3)
    order = find_order(says([[0, 2, 1][k] for k in labels], classes=3), labels, classes)
    assert order is not None
    assert order.classes == ("1", "2", "10")
    assert order.right == 24
    assert order.by.startswith("that of the numbers in their names")


@pytest.mark.parametrize(("each", "clear"), [(5, False), (6, True)])
def test_so_few_images_that_chance_explains_them_move_nothing(each: int, clear: bool) -> None:
    """Two swapped classes: 2 * `each` images speak for the swap, and 2 / 2^(2 * each) must be below 0.001."""
    assert (2 / 2 ** (2 * each) < 1e-3) is clear
    labels = labelled(each=each)
    order = find_order(says([[1, 0, 2, 3][k] for k in labels]), labels, CLASSES)
    assert (order is not None) is clear
    if order is not None:
        assert order.classes == ("bee", "ant", "cat", "dog")


@pytest.mark.parametrize(("few", "guessed"), [(2, ("cat", "dog")), (3, ())])
def test_classes_with_fewer_than_three_images_are_guessed(few: int, guessed: tuple[str, ...]) -> None:
    labels = np.array([0] * 8 + [1] * 8 + [2] * few + [3] * few)
    order = find_order(says([[1, 0, 3, 2][k] for k in labels]), labels, CLASSES)
    assert order is not None
    assert order.classes == ("bee", "ant", "dog", "cat")
    assert order.right == 16 + 2 * few
    assert order.guessed == guessed


def test_a_class_that_mostly_speaks_for_another_output_is_no_evidence() -> None:
    """Of two swapped classes one has its own output in but half of its images, so that one clear class is left."""
    labels = np.array([0] * 12 + [1] * 12 + [2] * 12 + [3] * 12)
    outputs = [1] * 12 + [0] * 6 + [2, 3] * 3 + [2] * 12 + [3] * 12
    assert find_order(says(outputs), labels, CLASSES) is None
    mostly = [1] * 12 + [0] * 8 + [2, 3] * 2 + [2] * 12 + [3] * 12
    order = find_order(says(mostly), labels, CLASSES)
    assert order is not None
    assert order.right == 44
    assert math.isclose(8 / 12, 2 / 3), "which is enough"


def test_the_best_order_wins_where_it_is_better_than_that_of_the_numbers() -> None:
    classes = ("1", "10", "2", "3")
    labels = labelled(each=10)
    order = find_order(says([[1, 3, 0, 2][k] for k in labels]), labels, classes)
    assert order is not None
    assert (order.classes, order.right, order.by) == (("2", "1", "3", "10"), 40, "")


def test_classes_without_images_keep_their_outputs() -> None:
    labels = np.repeat([0, 1], 10)
    order = find_order(says([1 - k for k in labels]), labels, CLASSES)
    assert order is not None
    assert (order.classes, order.right, order.guessed) == (("bee", "ant", "cat", "dog"), 20, ())


def test_a_single_class_of_few_images_has_the_output_that_is_left_and_is_not_guessed() -> None:
    labels = np.array([0] * 9 + [1] * 9 + [2] * 2 + [3] * 9)
    order = find_order(says([[1, 2, 0, 3][k] for k in labels]), labels, CLASSES)
    assert order is not None
    assert (order.classes, order.guessed) == (("cat", "ant", "bee", "dog"), ())
