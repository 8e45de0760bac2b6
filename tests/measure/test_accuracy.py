"""Recalls per class, their means, and classes without test images."""

from __future__ import annotations

import numpy as np
import pytest

from edgeoe.measure.accuracy import accuracy_from_predictions


def test_recalls_are_in_class_order_and_the_rare_ones_are_averaged() -> None:
    labels = np.array([0] * 4 + [1] * 2 + [2] * 4)
    predicted = np.array([0, 0, 0, 1, 1, 0, 2, 2, 2, 2])
    accuracy = accuracy_from_predictions(predicted, labels, classes=3, rare=(1, 2))
    assert [part.value for part in accuracy.recall_per_class if part] == [0.75, 0.5, 1.0]
    assert accuracy.top1.value == pytest.approx(0.8)
    assert accuracy.mean_recall.value == pytest.approx(0.75)
    assert accuracy.rare_recall is not None
    assert accuracy.rare_recall.value == pytest.approx(0.75)
    assert accuracy.worst_recall.value == 0.5
    assert accuracy.images_per_class == (4, 2, 4)


def test_a_class_without_images_has_no_recall_and_enters_no_mean() -> None:
    labels = np.array([0, 0, 2])
    accuracy = accuracy_from_predictions(np.array([0, 1, 2]), labels, classes=3, rare=(1, 2))
    assert accuracy.recall_per_class[1] is None
    assert accuracy.mean_recall.value == pytest.approx(0.75)
    assert accuracy.rare_recall is not None
    assert accuracy.rare_recall.value == 1.0


def test_rare_recall_is_unknown_when_no_rare_class_was_tested() -> None:
    accuracy = accuracy_from_predictions(np.array([0]), np.array([0]), classes=2, rare=(1,))
    assert accuracy.rare_recall is None
