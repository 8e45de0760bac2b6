"""Percentiles and intervals, against known values, laws, and simulated coverage."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from edgeoe.measure.statistics import (
    mean,
    mean_of_proportions,
    nearest_rank,
    over_processes,
    paired_difference,
    percentile_over_processes,
    proportion,
    variation,
)
from edgeoe.records.measurement import Estimate


def test_a_proportion_has_the_wilson_interval() -> None:
    estimate = proportion(81, 263)  # Newcombe, 1998, table I: 0.2553 to 0.3662
    assert estimate.value == pytest.approx(81 / 263)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_no_hit_in_a_few_still_leaves_room_above() -> None:
    estimate = proportion(0, 20)  # Newcombe, 1998, table I: 0.0000 to 0.1611
    assert estimate.low == 0.0
    assert estimate.high == pytest.approx(0.1611, abs=5e-5)


@pytest.mark.parametrize("values", [[0.1, 0.2], [0.024, -0.013, 0.07, 0.001, 0.02]])
def test_a_mean_has_students_interval(values: list[float]) -> None:
    estimate = mean(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((np.mean(values), low, high))


def test_the_mean_of_one_value_has_an_interval_without_ends() -> None:
    assert mean([0.5]) == Estimate(0.5, -np.inf, np.inf)
    with pytest.raises(ValueError, match="at least one value"):
        mean([])


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_value_and_stays_within_0_and_1(hits_n: tuple[int, int]) -> None:
    estimate = proportion(*hits_n)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=10))
def test_a_mean_of_proportions_has_its_value_within_an_interval_no_wider_than_its_widest_part(
    hits_misses: list[tuple[int, int]],
) -> None:
    hits = [hit for hit, _ in hits_misses]
    n = [hit + miss + 1 for hit, miss in hits_misses]
    mean, parts = mean_of_proportions(hits, n), [proportion(h, of) for h, of in zip(hits, n, strict=True)]
    assert mean.value == pytest.approx(np.mean([part.value for part in parts]))
    assert 0 <= mean.low <= mean.value <= mean.high <= 1
    assert mean.high - mean.low <= max(p.high - p.low for p in parts) + 1e-12


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=200), st.sampled_from([0.07, 0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_the_least_sample_with_enough_at_or_below_it(samples: list[float], share: float) -> None:
    value, ordered = nearest_rank(np.asarray(samples), share), np.asarray(samples)
    assert value in samples
    assert np.mean(ordered <= value) >= share - 1e-12
    assert np.mean(ordered < value) < share


@given(st.integers(1, 2000))
def test_ranks_are_exact_at_every_number_of_samples(n: int) -> None:
    samples = np.arange(1.0, n + 1)
    for percent in (7, 50, 90, 99, 100):
        assert nearest_rank(samples, percent / 100) == -(-percent * n // 100)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=50), st.randoms())
def test_a_percentile_does_not_depend_on_the_order(samples: list[float], random: Random) -> None:
    shuffled = samples.copy()
    random.shuffle(shuffled)
    assert nearest_rank(np.asarray(shuffled), 0.9) == nearest_rank(np.asarray(samples), 0.9)


@pytest.mark.parametrize(("samples", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.01), ([1.0], -0.5)])
def test_a_percentile_of_nothing_or_beyond_all_is_refused(samples: list[float], share: float) -> None:
    with pytest.raises(ValueError, match=r"share|sample"):
        nearest_rank(np.asarray(samples), share)


def test_values_over_processes_have_the_t_interval_of_their_logarithms() -> None:
    values = [1.31, 1.27, 1.45, 1.29, 1.33]
    estimate = over_processes(values)
    assert estimate.value == pytest.approx(stats.gmean(values))
    interval = stats.ttest_1samp(np.log(values), 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((np.exp(interval.low), np.exp(interval.high)))


def test_one_process_says_nothing_of_others() -> None:
    estimate = over_processes([2.5])
    assert estimate.value == pytest.approx(2.5)
    assert (estimate.low, estimate.high) == (0.0, np.inf)


POSITIVES = st.lists(st.floats(0.01, 100), min_size=2, max_size=20)


@given(POSITIVES, st.floats(0.01, 100))
def test_a_unit_scales_an_estimate_and_leaves_its_variation(values: list[float], unit: float) -> None:
    plain, scaled = over_processes(values), over_processes([unit * value for value in values])
    for side in ("low", "value", "high"):
        assert getattr(scaled, side) == pytest.approx(unit * getattr(plain, side), rel=1e-6)
    assert plain.low <= plain.value <= plain.high
    assert variation([unit * value for value in values]) == pytest.approx(variation(values), abs=1e-9)


@given(POSITIVES)
def test_inverse_values_have_the_inverse_estimate(values: list[float]) -> None:
    plain, inverse = over_processes(values), over_processes([1 / value for value in values])
    assert (inverse.low, inverse.high) == pytest.approx((1 / plain.high, 1 / plain.low), rel=1e-6)


@pytest.mark.parametrize("bad", [[], [1.0, 0.0], [1.0, -1.0], [np.nan, 1.0], [1.0, np.inf], [[1.0, 2.0]]])
def test_what_is_no_time_is_refused(bad: list[float]) -> None:
    for rule in (over_processes, variation):
        with pytest.raises(ValueError, match=r"above 0|at least one"):
            rule(bad)


def test_percentiles_over_processes_are_those_of_all_calls() -> None:
    samples = [np.arange(1.0, 101.0), np.arange(101.0, 201.0)]
    assert [percentile_over_processes(samples, share).value for share in (0.5, 0.9, 0.99)] == [100.0, 180.0, 198.0]


def test_processes_that_differ_widen_a_percentile() -> None:
    alike = [np.linspace(1.0, 1.1, 100)] * 8
    apart = [row * factor for row, factor in zip(alike, np.linspace(0.7, 1.3, 8), strict=True)]
    narrow, wide = percentile_over_processes(alike, 0.5), percentile_over_processes(apart, 0.5)
    assert wide.high / wide.low > 1.2 > 1.01 > narrow.high / narrow.low > 1.0


def test_a_percentile_of_few_calls_has_no_upper_end() -> None:
    assert percentile_over_processes([np.arange(1.0, 21.0)] * 2, 0.99).high == np.inf
    assert percentile_over_processes([np.arange(1.0, 401.0)] * 2, 0.99).high < 401.0


def test_one_process_leaves_a_percentile_without_ends() -> None:
    found = percentile_over_processes([np.arange(1.0, 101.0)], 0.5)
    assert (found.value, found.low, found.high) == (50.0, 0.0, np.inf)
    with pytest.raises(ValueError, match="at least one process"):
        percentile_over_processes([], 0.5)


@given(st.floats(0.01, 100))
def test_a_percentile_scales_with_its_unit(scale: float) -> None:
    samples = [np.random.default_rng(seed).lognormal(0, 0.2, 50) for seed in range(4)]
    own, scaled = (percentile_over_processes([row * by for row in samples], 0.9) for by in (1.0, scale))
    assert [scaled.value, scaled.low, scaled.high] == pytest.approx(
        [part * scale for part in (own.value, own.low, own.high)]
    )


def test_variation_is_the_sample_standard_deviation_over_the_mean() -> None:
    assert variation([9.0, 10.0, 11.0]) == pytest.approx(0.1)
    assert variation([3.0, 3.0]) == 0.0
    with pytest.raises(ValueError, match="two"):
        variation([1.0])


def test_a_paired_difference_has_tangos_interval() -> None:
    # Bentur et al., 2009, in Fagerland, Lydersen and Laake, 2014: of 21, one alone 1, the other alone 7
    estimate = paired_difference(7, 1, 21)
    assert estimate.value == pytest.approx(-6 / 21)
    assert (estimate.low, estimate.high) == pytest.approx((-0.517, -0.026), abs=5e-4)


PAIRS = st.integers(1, 400).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n)).flatmap(
        lambda lost_n: st.tuples(st.just(lost_n[0]), st.integers(0, lost_n[1] - lost_n[0]), st.just(lost_n[1]))
    )
)


@given(PAIRS)
def test_both_ends_solve_tangos_equation(pairs: tuple[int, int, int]) -> None:
    lost, gained, n = pairs
    estimate = paired_difference(lost, gained, n)
    z2, d = 1.959963984540054**2, gained - lost
    quartic = [  # Yang, Sun and Hardin, 2013: the interval's ends are its outermost real roots
        (n * (n / z2 + 1)) ** 2,
        -n * d * (n / z2 + 1) * (4 * n / z2 + 1),
        2 * n * d**2 * (3 * n / z2 + 2) / z2 - n**2 * ((lost + gained) / z2 + 1),
        n * d * (2 * (lost + gained) / z2 + 1) - d**3 * (4 * n / z2 + 1) / z2,
        d**2 * (d**2 / z2 - (lost + gained)) / z2,
    ]
    roots = np.roots(quartic)
    real = roots[np.abs(roots.imag) < 1e-5].real
    assert (estimate.low, estimate.high) == pytest.approx((real.min(), real.max()), abs=1e-5)
    assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1


@given(PAIRS)
def test_a_drop_is_a_gain_backwards(pairs: tuple[int, int, int]) -> None:
    lost, gained, n = pairs
    gain, drop = paired_difference(lost, gained, n), paired_difference(gained, lost, n)
    assert (drop.value, drop.low, drop.high) == (-gain.value, -gain.high, -gain.low)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_losses_alone_have_wilsons_far_end(lost_n: tuple[int, int]) -> None:
    lost, n = lost_n
    assert -paired_difference(lost, 0, n).low == pytest.approx(proportion(lost, n).high, abs=1e-9)


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"only_base \+ only_new"):
        paired_difference(*counts)


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
    assert mean_of_proportions([7], [9]) == proportion(7, 9)


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
        (5, (0.9,) * 3),  # found 0.946, and 0.055 beyond the upper end
        (10, (0.9,) * 10),  # 0.958, 0.036
        (10, (0.97,) * 10),  # 0.970, 0.030
        (10, (0.9, 0.95, 0.99)),  # 0.953, 0.047
        (40, (0.5, 0.8, 0.95)),  # 0.943, 0.032
        (30, (0.2, 0.5, 0.99)),  # 0.954, 0.033
        (100, (0.9,) * 10),  # 0.952, 0.025
    ],
)
def test_means_of_recalls_cover_nearly_as_often(n: int, recalls: tuple[float, ...]) -> None:
    drawn = np.random.default_rng(0).binomial(n, recalls, (4000, len(recalls))).tolist()
    estimates, truth = [mean_of_proportions(row, [n] * len(row)) for row in drawn], float(np.mean(recalls))
    assert covered(estimates, truth) >= 0.93
    assert np.mean([estimate.high < truth for estimate in estimates]) <= 0.06, "which would fail what is good enough"


@pytest.mark.parametrize(
    ("lost", "gained", "n"),
    [
        (0.00, 0.00, 20),  # found 1.000
        (0.10, 0.00, 20),  # 0.997
        (0.02, 0.02, 200),  # 0.954
        (0.05, 0.00, 200),  # 0.967
        (0.15, 0.15, 50),  # 0.951
        (0.02, 0.01, 2000),  # 0.945
    ],
)
def test_paired_differences_cover_even_where_hardly_any_image_differs(lost: float, gained: float, n: int) -> None:
    drawn = np.random.default_rng(0).multinomial(n, [lost, gained, 1 - lost - gained], 5000).tolist()
    known = {(only_base, only_new): paired_difference(only_base, only_new, n) for only_base, only_new, _ in drawn}
    estimates = [known[only_base, only_new] for only_base, only_new, _ in drawn]
    assert covered(estimates, gained - lost + 1e-12) >= 0.94
    assert np.mean([estimate.low > gained - lost + 1e-9 for estimate in estimates]) <= 0.04


@pytest.mark.parametrize(
    ("share", "truth"),  # of the log-normal with a standard deviation of 0.2
    [(0.5, 1.0), (0.9, 1.292154)],  # found 0.951, 0.951; by ranks of one process's calls 0.511, 0.688
)
def test_processes_that_differ_are_covered(share: float, truth: float) -> None:
    rng = np.random.default_rng(0)
    effects = rng.lognormal(0, 0.05, (2000, 8, 1))
    drawn = effects * rng.lognormal(0, 0.2, (2000, 8, 200))
    assert covered([percentile_over_processes(list(row), share) for row in drawn], truth) >= 0.93
