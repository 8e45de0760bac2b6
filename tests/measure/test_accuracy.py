"""Recalls per class, their means, and classes without test images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeoe.measure.accuracy import accuracy_from_predictions
from edgeoe.records.measurement import Accuracy
from edgeoe.records.result import Predictions


def accuracy_of(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], *, classes: int, rare: tuple[int, ...]
) -> Accuracy:
    predictions = Predictions(tuple(predicted.tolist()), tuple(labels.tolist()), "")
    return accuracy_from_predictions(predictions, classes=classes, rare=rare)


def test_recalls_are_in_class_order_and_the_rare_ones_are_averaged() -> None:
    labels = np.array([0] * 4 + [1] * 2 + [2] * 4)
    predicted = np.array([0, 0, 0, 1, 1, 0, 2, 2, 2, 2])
    accuracy = accuracy_of(predicted, labels, classes=3, rare=(1, 2))
    assert [part.value for part in accuracy.recall_per_class if part] == [0.75, 0.5, 1.0]
    assert accuracy.top1.value == pytest.approx(0.8)
    assert accuracy.mean_recall.value == pytest.approx(0.75)
    assert accuracy.rare_recall is not None
    assert accuracy.rare_recall.value == pytest.approx(0.75)
    assert accuracy.worst_recall.value == 0.5
    assert accuracy.images_per_class == (4, 2, 4)


def test_a_class_without_images_has_no_recall_and_enters_no_mean() -> None:
    labels = np.array([0, 0, 2])
    accuracy = accuracy_of(np.array([0, 1, 2]), labels, classes=3, rare=(1, 2))
    assert accuracy.recall_per_class[1] is None
    assert accuracy.mean_recall.value == pytest.approx(0.75)
    assert accuracy.rare_recall is not None
    assert accuracy.rare_recall.value == 1.0


def test_rare_recall_is_unknown_when_no_rare_class_was_tested() -> None:
    accuracy = accuracy_of(np.array([0]), np.array([0]), classes=2, rare=(1,))
    assert accuracy.rare_recall is None


PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(PAIRS)
def test_recalls_and_images_add_up_to_top1(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = (np.array(column) for column in zip(*pairs, strict=True))
    accuracy = accuracy_of(predicted, labels, classes=4, rare=(0,))
    images = accuracy.images_per_class
    assert sum(images) == len(labels)
    hits = sum(part.value * n for part, n in zip(accuracy.recall_per_class, images, strict=True) if part)
    assert accuracy.top1.value == pytest.approx(hits / len(labels))
    known = [part.value for part in accuracy.recall_per_class if part]
    assert len(known) == len(set(labels.tolist()))
    assert accuracy.worst_recall.value == min(known) <= accuracy.mean_recall.value
    assert accuracy.mean_recall.value == pytest.approx(np.mean(known))
    first = accuracy.recall_per_class[0]
    assert (accuracy.rare_recall is None) == (first is None)
    if accuracy.rare_recall is not None and first is not None:
        assert accuracy.rare_recall.value == pytest.approx(first.value)


def test_the_worst_recall_may_be_that_of_a_class_with_few_images() -> None:
    labels = np.array([0] * 100 + [1] * 2)
    predicted = np.array([0] * 80 + [1] * 22)
    accuracy = accuracy_of(predicted, labels, classes=2, rare=(1,))
    few = accuracy.recall_per_class[1]
    assert few is not None
    assert accuracy.worst_recall.value == 0.8
    assert accuracy.worst_recall.low == few.low
