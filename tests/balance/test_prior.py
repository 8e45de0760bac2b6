"""The complementary prior over classes."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeoe.balance.prior import class_weights, complementary_prior
from edgeoe.errors import ConfigError, DataError

COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(any)


def prior(counts: list[int], alpha: float | None = None) -> torch.Tensor:
    return complementary_prior(torch.tensor(counts), alpha=alpha)


@given(COUNTS, st.none() | st.floats(0, 10))
def test_it_is_a_distribution(counts: list[int], beyond: float | None) -> None:
    found = prior(counts, None if beyond is None else max(counts) / sum(counts) + beyond)
    assert float(found.double().sum()) == pytest.approx(1, abs=1e-5)
    assert found.min() >= 0, "multinomial would refuse it"


@given(COUNTS)
def test_a_rarer_class_is_never_less_likely(counts: list[int]) -> None:
    found = prior(counts).tolist()
    assert found[counts.index(min(counts))] == max(found)
    by_count = [p for _, p in sorted(zip(counts, found, strict=True))]
    assert all(rarer >= commoner - 1e-7 for rarer, commoner in pairwise(by_count))


def test_it_reverses_the_order_of_the_counts() -> None:
    assert prior([12, 5, 1]).argsort().tolist() == [0, 1, 2]
    assert prior([0, 3, 9]).argsort().tolist() == [2, 1, 0]


def test_it_is_the_formula_of_open_sampling() -> None:
    beta = [12 / 18, 5 / 18, 1 / 18]
    alpha = 13 / 18
    assert prior([12, 5, 1]).tolist() == pytest.approx([(alpha - b) / (3 * alpha - 1) for b in beta])


@given(st.integers(2, 50), st.integers(1, 1000), st.none() | st.floats(0, 5))
def test_a_balanced_set_has_a_uniform_prior(classes: int, count: int, beyond: float | None) -> None:
    found = prior([count] * classes, None if beyond is None else 1 / classes + beyond)
    assert found.tolist() == pytest.approx([1 / classes] * classes, rel=1e-5)


@given(COUNTS)
def test_the_least_alpha_gives_the_largest_class_nothing(counts: list[int]) -> None:
    assume(min(counts) < max(counts))
    found = prior(counts, max(counts) / sum(counts))
    assert float(found[counts.index(max(counts))]) == pytest.approx(0, abs=1e-6)
    assert found[counts.index(min(counts))] > 0


@given(COUNTS)
def test_a_great_alpha_comes_near_uniform(counts: list[int]) -> None:
    assert prior(counts, 1e6).tolist() == pytest.approx([1 / len(counts)] * len(counts), abs=1e-5)


@given(COUNTS)
def test_class_weights_have_mean_1(counts: list[int]) -> None:
    weights = class_weights(prior(counts))
    assert float(weights.double().mean()) == pytest.approx(1, abs=1e-5)


def test_an_alpha_rounded_down_in_its_last_digit_is_taken_as_the_least() -> None:
    found = prior([2, 1], 0.666666666)
    assert found.tolist() == [0.0, 1.0]


def test_an_alpha_below_the_largest_share_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"\[oe\] alpha must be .*at least the largest class's share, 0.6667. Got 0.6"
    ):
        prior([12, 5, 1], 0.6)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -1.0])
def test_an_alpha_that_is_no_number_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=f"Got {alpha}"):
        prior([12, 5, 1], alpha)


def test_a_single_sample_is_enough() -> None:
    assert prior([0, 1, 0]).tolist() == [0.5, 0.0, 0.5]


def test_no_samples_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no samples in any class"):
        prior([0, 0, 0])
