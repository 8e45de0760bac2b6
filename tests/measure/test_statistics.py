"""Percentiles and intervals, against known values, laws, and simulated coverage."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeoe.measure.statistics import mean_of_proportions, percentile, proportion
from edgeoe.records import Estimate


def test_a_proportion_has_the_wilson_interval() -> None:
    estimate = proportion(81, 263)  # Newcombe, 1998, table I: 0.2553 to 0.3662
    assert estimate.value == pytest.approx(81 / 263)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_no_hit_in_a_few_still_leaves_room_above() -> None:
    estimate = proportion(0, 20)  # Newcombe, 1998, table I: 0.0000 to 0.1611
    assert estimate.low == 0.0
    assert estimate.high == pytest.approx(0.1611, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_value_and_stays_within_0_and_1(hits_n: tuple[int, int]) -> None:
    estimate = proportion(*hits_n)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=10))
def test_a_mean_of_proportions_is_no_wider_than_its_widest_part(hits: list[int]) -> None:
    parts = [proportion(h, 20) for h in hits]
    mean = mean_of_proportions(parts)
    assert mean.value == pytest.approx(np.mean(hits) / 20)
    assert 0 <= mean.low <= mean.value <= mean.high <= 1
    assert mean.high - mean.low <= max(p.high - p.low for p in parts) + 1e-12


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_a_sample_with_enough_below_it(samples: list[float], share: float) -> None:
    estimate = percentile(np.asarray(samples), share)
    assert estimate.value in samples
    assert np.mean(np.asarray(samples) <= estimate.value) >= share - 1e-12
    assert estimate.low <= estimate.value <= estimate.high
    assert {estimate.low, estimate.high} <= {*samples, 0.0, np.inf}


def test_a_percentile_of_too_few_samples_has_no_upper_end() -> None:
    assert percentile(np.arange(1.0, 201.0), 0.99).high == np.inf
    assert percentile(np.arange(1.0, 601.0), 0.99).high == 600.0


def test_percentiles_go_by_nearest_rank() -> None:
    samples = np.arange(1.0, 101.0)
    assert [percentile(samples, share).value for share in (0.5, 0.9, 0.99)] == [50.0, 90.0, 99.0]


@given(st.integers(1, 2000))
def test_ranks_are_exact_at_every_number_of_samples(n: int) -> None:
    samples = np.arange(1.0, n + 1)
    for share, percent in ((0.5, 50), (0.9, 90), (0.99, 99)):
        assert percentile(samples, share).value == -(-percent * n // 100)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=50), st.randoms())
def test_a_percentile_does_not_depend_on_the_order(samples: list[float], random: Random) -> None:
    shuffled = samples.copy()
    random.shuffle(shuffled)
    assert percentile(np.asarray(shuffled), 0.9) == percentile(np.asarray(samples), 0.9)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_hits_and_misses_mirror_each_other(hits_n: tuple[int, int]) -> None:
    hits, n = hits_n
    one, other = proportion(hits, n), proportion(n - hits, n)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-12)


@given(st.integers(1, 100).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.integers(2, 20))
def test_more_images_with_the_same_share_tell_more(hits_n: tuple[int, int], times: int) -> None:
    hits, n = hits_n
    few, many = proportion(hits, n), proportion(hits * times, n * times)
    assert many.high - many.low < few.high - few.low


def test_the_mean_of_one_proportion_is_itself() -> None:
    alone, part = mean_of_proportions([proportion(7, 9)]), proportion(7, 9)
    assert (alone.value, alone.low, alone.high) == pytest.approx((part.value, part.low, part.high))


# Coverage: how often a 95 % interval holds the truth, in seeded simulations. What was found stands beside.


def covered(estimates: Sequence[Estimate], truth: float | NDArray[np.float64]) -> float:
    low, high = (np.array([getattr(e, side) for e in estimates]) for side in ("low", "high"))
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("n", [10, 40, 200])  # found 0.953, 0.953, 0.952
def test_proportions_cover_any_share_95_times_in_100(n: int) -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, 5000)
    known = [proportion(hits, n) for hits in range(n + 1)]
    assert 0.94 <= covered([known[hits] for hits in rng.binomial(n, truth)], truth) <= 0.97


@pytest.mark.parametrize(
    ("n", "recalls"),
    [
        (40, (0.5, 0.8, 0.95)),  # found 0.947
        (100, (0.9,) * 10),  # 0.943
        (10, (0.9, 0.95, 0.99)),  # 0.933
        (30, (0.2, 0.5, 0.99)),  # 0.965
    ],
)
def test_means_of_recalls_cover_nearly_as_often(n: int, recalls: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    known = [proportion(hits, n) for hits in range(n + 1)]
    drawn = rng.binomial(n, recalls, (4000, len(recalls)))
    estimates = [mean_of_proportions([known[hits] for hits in row]) for row in drawn]
    assert covered(estimates, float(np.mean(recalls))) >= 0.93


@pytest.mark.parametrize(
    ("n", "share", "truth"),  # of the standard log-normal
    [
        (50, 0.50, 1.0),  # found 0.968
        (200, 0.50, 1.0),  # 0.957
        (200, 0.90, 3.602224),  # 0.980
        (500, 0.90, 3.602224),  # 0.962
        (500, 0.99, 10.240474),  # 0.983
        (1000, 0.99, 10.240474),  # 0.982
    ],
)
def test_percentiles_cover_the_truth_where_there_are_samples_enough(n: int, share: float, truth: float) -> None:
    drawn = np.random.default_rng(0).lognormal(size=(2000, n))
    assert covered([percentile(row, share) for row in drawn], truth) >= 0.945
