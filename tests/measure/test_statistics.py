"""Percentiles and intervals, against known values, laws, and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.measure.statistics import mean_of_proportions, percentile, proportion


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
    assert min(samples) <= estimate.low <= estimate.value <= estimate.high <= max(samples)


def test_percentiles_go_by_nearest_rank() -> None:
    samples = np.arange(1.0, 101.0)
    assert [percentile(samples, share).value for share in (0.5, 0.9, 0.99)] == [50.0, 90.0, 99.0]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    shares, n = np.array([0.5, 0.8, 0.95]), 40
    recalls = rng.binomial(n, shares, (2000, 3))
    one = [proportion(int(h[2]), n) for h in recalls]
    mean = [mean_of_proportions([proportion(int(x), n) for x in h]) for h in recalls]
    p90 = [percentile(row, 0.9) for row in rng.lognormal(size=(1000, 500))]
    truth = float(np.exp(1.2815515655446004))  # of the standard log-normal
    assert np.mean([e.low <= 0.95 <= e.high for e in one]) >= 0.93
    assert np.mean([e.low <= shares.mean() <= e.high for e in mean]) >= 0.93
    assert np.mean([e.low <= truth <= e.high for e in p90]) >= 0.93
