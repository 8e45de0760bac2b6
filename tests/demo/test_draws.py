"""The effect of OE over draws."""

from dataclasses import replace

import numpy as np
import pytest

from edgeoe.demo.draws import Draw, gains, statement
from edgeoe.measure.accuracy import accuracy_from_predictions
from edgeoe.records.measurement import Accuracy, Estimate
from edgeoe.records.result import Predictions


def accuracy(right: int) -> Accuracy:
    """Accuracy on two classes with ten images each, of which the first `right` are predicted correctly."""
    labels = np.repeat([0, 1], 10)
    chosen = np.where(np.arange(20) < right, labels, 1 - labels)
    predictions = Predictions(tuple(chosen.tolist()), tuple(labels.tolist()), "")
    return accuracy_from_predictions(predictions, classes=2, rare=[1])


def draws(*without_with: tuple[int, int]) -> list[Draw]:
    return [Draw(seed, accuracy(19), accuracy(base), accuracy(new)) for seed, (base, new) in enumerate(without_with)]


def test_gains_are_means_over_draws_and_differences_within_them() -> None:
    top1 = gains(draws((12, 15), (14, 17)))["top-1"]
    assert (top1.teacher, top1.without_oe, top1.with_oe) == pytest.approx((0.95, 0.65, 0.80))
    assert (top1.difference.value, top1.difference.low, top1.difference.high) == pytest.approx((0.15, 0.15, 0.15))


def test_each_draw_has_its_own_rare_classes() -> None:
    first, second = draws((14, 14), (14, 14))
    second = replace(second, with_oe=replace(second.with_oe, rare_recall=Estimate(0.9, 0.8, 1.0)))
    assert gains([first, second])["recall, 3 rarest"].difference.value == pytest.approx((0.9 - 0.4) / 2)


def test_unlike_draws_make_the_interval_wide() -> None:
    difference = gains(draws((10, 20), (15, 15)))["top-1"].difference
    assert difference.low < 0 < difference.value < 1 < difference.high


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            Estimate(0.024, 0.012, 0.036),
            "OE gained 2.4 points of top-1 [+1.2, +3.6] over 5 draws of labelled samples.",
        ),
        (
            Estimate(-0.012, -0.02, -0.004),
            "OE cost 1.2 points of top-1 [-2.0, -0.4] over 5 draws of labelled samples: here --no-oe is better.",
        ),
        (
            Estimate(0.003, -0.005, 0.011),
            "OE made no significant difference to top-1: +0.3 points [-0.5, +1.1] over 5 draws of labelled samples.",
        ),
    ],
)
def test_only_an_interval_without_zero_is_a_gain_or_a_loss(difference: Estimate, sentence: str) -> None:
    assert statement(difference, draws=5) == sentence


def test_a_difference_that_ends_at_zero_is_none() -> None:
    assert statement(Estimate(0.01, 0.0, 0.02), draws=5).startswith("OE made no significant difference")
