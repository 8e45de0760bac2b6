"""What two sets of measurements make of each other: laws, known p-values, and simulated false alarms."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from edgeoe.measure.decision import RESAMPLES, _medians, decide_paired, decide_unpaired, fewest_rounds, looks
from edgeoe.records.comparison import Change, LatencyChange
from edgeoe.records.measurement import Estimate

Decide = Callable[..., LatencyChange]
DECIDE = pytest.mark.parametrize("decide", [decide_paired, decide_unpaired])
TIMES: st.SearchStrategy[NDArray[np.float64]] = st.integers(2, 30).flatmap(
    lambda n: st.lists(st.tuples(*[st.floats(0.5, 2)] * 2), min_size=n, max_size=n).map(np.array)
)


def rounds(n: int, *, ratio: float, noise: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return rng.lognormal(1, noise, n), ratio * rng.lognormal(1, noise, n)


@DECIDE
@pytest.mark.parametrize(
    ("ratio", "change"),
    [(1.1, "regressed"), (1 / 1.1, "improved"), (1.0, "no worse"), (0.97, "no worse"), (1.03, "inconclusive")],
)
def test_a_clear_change_and_a_clear_lack_of_it_are_told(decide: Decide, ratio: float, change: str) -> None:
    decided = decide(*rounds(20, ratio=ratio, noise=0.015), quantity="p50", tolerance=0.03)
    assert decided.change == change
    assert (decided.n, decided.quantity, decided.tolerance) == (20, "p50", 0.03)
    assert decided.ratio.low <= decided.ratio.value <= decided.ratio.high
    assert bool(decided.reason) == (change == "inconclusive")


def test_the_paired_p_value_is_scipys_exact_one() -> None:
    base, new = rounds(17, ratio=1.01, noise=0.02)
    decided = decide_paired(base, new, quantity="p50", tolerance=0.03)
    assert decided.p_value == pytest.approx(stats.wilcoxon(np.log(new / base), method="exact").pvalue)
    assert (decided.base_ms, decided.new_ms) == (np.median(base), np.median(new))
    assert decided.ratio.value == pytest.approx(np.median(new / base))


def test_the_unpaired_p_value_is_mann_and_whitneys() -> None:
    # all 7 of one above all 7 of the other: 2 of the C(14, 7) orders
    decided = decide_unpaired(np.arange(1.0, 8.0), np.arange(11.0, 18.0), quantity="p50", tolerance=0.03)
    assert decided.p_value == pytest.approx(2 / 3432)
    assert decided.change == "regressed"
    assert decided.ratio.value == pytest.approx(14 / 4)


@settings(max_examples=40, deadline=None)
@given(TIMES)
def test_swapping_base_and_new_inverts_the_ratio_and_the_verdict(times: NDArray[np.float64]) -> None:
    there, back = (decide_paired(*pair, quantity="p50", tolerance=0.05) for pair in (times.T, times.T[::-1]))
    assert back.p_value == pytest.approx(there.p_value)
    assert [back.ratio.value, back.ratio.low, back.ratio.high] == pytest.approx(
        [1 / there.ratio.value, 1 / there.ratio.high, 1 / there.ratio.low]
    )
    assume(min(abs(abs(np.log(end)) - np.log(1.05)) for end in (there.ratio.low, there.ratio.high)) > 1e-12)
    assert (there.change == "regressed") == (back.change == "improved")
    assert (there.change == "improved") == (back.change == "regressed")


@settings(max_examples=40, deadline=None)
@given(TIMES)
def test_swapping_sides_inverts_the_unpaired_ratio(times: NDArray[np.float64]) -> None:
    there, back = (decide_unpaired(*pair, quantity="p50", tolerance=0.05) for pair in (times.T, times.T[::-1]))
    assert back.p_value == pytest.approx(there.p_value)
    assert back.ratio.value == pytest.approx(1 / there.ratio.value)
    assert {there.change, back.change} != {"regressed"}
    assert {there.change, back.change} != {"improved"}


@DECIDE
@settings(max_examples=40, deadline=None)
@given(times=TIMES, power=st.integers(-20, 20))
def test_the_unit_of_time_does_not_matter(decide: Decide, times: NDArray[np.float64], power: int) -> None:
    one, other = (decide(*(unit * times.T), quantity="p50", tolerance=0.05) for unit in (1.0, 2.0**power))
    ends = [(e.ratio.value, e.ratio.low, e.ratio.high) for e in (one, other)]
    assert ends[0] == pytest.approx(ends[1])
    assert other.base_ms == one.base_ms * 2.0**power


@settings(max_examples=40, deadline=None)
@given(TIMES, st.integers(0, 1000))
def test_the_order_of_rounds_does_not_matter(times: NDArray[np.float64], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(times)
    one, other = (decide_paired(*pairs.T, quantity="p50", tolerance=0.05) for pairs in (times, shuffled))
    assert one.ratio == other.ratio
    assert one.change == other.change


def test_the_same_seed_gives_the_same_interval() -> None:
    base, new = rounds(23, ratio=1.02, noise=0.03)
    found = [decide_paired(base, new, quantity="p50", tolerance=0.03, seed=seed).ratio for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[2].low == pytest.approx(found[0].low, rel=0.01)


@DECIDE
def test_equal_times_are_no_worse_even_with_no_tolerance(decide: Decide) -> None:
    decided = decide(np.full(12, 3.5), np.full(12, 3.5), quantity="p50", tolerance=0.0)
    assert (decided.change, decided.p_value, decided.ratio) == ("no worse", 1.0, Estimate(1.0, 1.0, 1.0))


@DECIDE
def test_ties_of_a_coarse_clock_are_decided(decide: Decide) -> None:
    base = np.array([1.0] * 8 + [1.5] * 8)
    decided = decide(base, base * 1.25, quantity="p50", tolerance=0.03)
    assert decided.p_value < 0.05
    assert decided.change == ("regressed" if decide is decide_paired else "inconclusive")


def test_rounds_without_any_difference_do_not_count_in_the_test() -> None:
    base, new = rounds(12, ratio=1.1, noise=0.01)
    new[:3] = base[:3]
    decided = decide_paired(base, new, quantity="p50", tolerance=0.03)
    assert decided.p_value == pytest.approx(2 / 2**9)
    assert decided.change == "inconclusive"


@pytest.mark.parametrize("n", [1, 2, 9])
def test_too_few_rounds_are_told_how_many_it_takes(n: int) -> None:
    decided = decide_paired(*rounds(n, ratio=2, noise=0.001), quantity="p50", tolerance=0.03)
    assert decided.change == "inconclusive"
    assert "it takes 10 for p < 0.002" in decided.reason


@pytest.mark.parametrize(("of_base", "of_new"), [(6, 6), (1, 1500), (2, 500)])
def test_too_few_processes_are_told_how_many_it_takes(of_base: int, of_new: int) -> None:
    base, new = np.linspace(1, 1.01, of_base), np.linspace(2, 2.01, of_new)
    decided = decide_unpaired(base, new, quantity="p99", tolerance=0.03)
    assert decided.change == "inconclusive"
    assert "it takes 7 of each" in decided.reason
    assert decided.n == of_base


def test_a_shift_within_the_tolerance_is_no_worse_however_sure() -> None:
    decided = decide_paired(*rounds(40, ratio=1.02, noise=0.004), quantity="p50", tolerance=0.03)
    assert decided.p_value < 1e-6
    assert decided.change == "no worse"


def test_what_is_hardly_slower_and_perhaps_much_faster_is_no_worse() -> None:
    decided = decide_paired(*rounds(20, ratio=0.93, noise=0.06), quantity="p50", tolerance=0.03)
    assert decided.ratio.low < 0.93 < decided.ratio.high < 1.03
    assert decided.change == "no worse"


def test_an_interval_beyond_the_tolerance_is_not_enough_without_the_test() -> None:
    ratios = np.exp([0.05, 0.051, 0.052, 0.053, 0.054, 0.055, 0.056, 0.057, 0.058, 0.059, 0.06, -0.3])
    decided = decide_paired(np.ones(12), ratios, quantity="p50", tolerance=0.03)
    assert decided.ratio.low > 1.03
    assert decided.change == "inconclusive"
    assert "is not below 0.002: more rounds would tell" in decided.reason


@pytest.mark.parametrize(("decide", "more"), [(decide_paired, "rounds"), (decide_unpaired, "processes of each")])
def test_an_interval_that_holds_the_limit_says_both_and_what_would_tell(decide: Decide, more: str) -> None:
    reason = decide(*rounds(20, ratio=1.03, noise=0.015), quantity="p50", tolerance=0.03).reason
    assert "of base's time (1.0" in reason
    assert f", allowed 1.03: more {more}" in reason
    assert reason.endswith("or a quieter machine would tell")


@pytest.mark.parametrize("n", range(1, 10))
def test_a_resamples_median_is_numpys(n: int) -> None:
    """Of an even number it lies between the two in the middle. The other half of the resamples mirrors this one."""
    ordered = np.sort(np.random.default_rng(n).lognormal(size=n))
    drawn = np.random.default_rng((5, 1)).integers(n, size=(RESAMPLES // 2, n))
    expected = [np.median(ordered[rows], axis=1) for rows in (drawn, n - 1 - drawn)]
    np.testing.assert_allclose(_medians(ordered, seed=5, side=1), np.concatenate(expected))


@DECIDE
@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_what_is_no_time_is_refused(decide: Decide, bad: float) -> None:
    for pair in (([1.0, bad], [1.0, 1.0]), ([1.0, 1.0], [bad, 1.0])):
        with pytest.raises(ValueError, match="finite and above 0"):
            decide(*pair, quantity="p50", tolerance=0.03)


def test_rounds_that_are_no_pairs_and_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="Got 2 and 3"):
        decide_paired([1.0] * 2, [1.0] * 3, quantity="p50", tolerance=0.03)
    for decide, tolerance in itertools.product((decide_paired, decide_unpaired), (-0.01, np.nan, np.inf)):
        with pytest.raises(ValueError, match="tolerance"):
            decide([1.0] * 20, [1.0] * 20, quantity="p50", tolerance=tolerance)
    for alpha in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="alpha"):
            decide_unpaired([1.0] * 20, [1.0] * 20, quantity="p50", tolerance=0.03, alpha=alpha)


@pytest.mark.parametrize(("alpha", "n"), [(0.002, 10), (0.001, 11), (0.05, 6), (0.01, 8), (2 / 2**7, 8)])
def test_fewest_rounds_can_reach_alpha_and_one_less_cannot(alpha: float, n: int) -> None:
    assert fewest_rounds(alpha) == n
    assert stats.wilcoxon(np.arange(1.0, n + 1), method="exact").pvalue < alpha
    assert stats.wilcoxon(np.arange(1.0, n), method="exact").pvalue >= alpha


def test_looks_grow_by_about_a_quarter() -> None:
    assert looks(10, 40) == [10, 13, 16, 20, 25, 32, 40]
    assert looks(10, 10) == [10]


@given(st.integers(1, 100).flatmap(lambda few: st.tuples(st.just(few), st.integers(few, 1000))))
def test_looks_begin_with_the_fewest_and_end_with_the_most(few_most: tuple[int, int]) -> None:
    found = looks(*few_most)
    assert (found[0], found[-1]) == few_most
    assert found == sorted(set(found))
    assert all(later <= max(1.41 * sooner, sooner + 1) + 1 for sooner, later in itertools.pairwise(found))


@pytest.mark.parametrize(("fewest", "most"), [(10, 9), (0, 5), (-1, 5)])
def test_looks_that_cannot_be_are_refused(fewest: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"Got {fewest} and {most}"):
        looks(fewest, most)


# What decisions are worth: seeded simulations. What was found stands beside.


def sequential(ratio: float, noise: float, tolerance: float, trials: int) -> dict[str, float]:
    ends = []
    for logs in np.log(ratio) + noise * np.random.default_rng(0).normal(size=(trials, 40)):
        for n in looks(10, 40):
            seen = decide_paired(np.ones(n), np.exp(logs[:n]), quantity="p50", tolerance=tolerance)
            if seen.change != "inconclusive":
                break
        ends.append(seen.change)
    return {change: ends.count(change) / trials for change in get_args(Change)}


def test_a_thing_compared_with_itself_raises_no_alarm() -> None:
    shares = sequential(1.0, 0.02, 0.03, trials=2000)
    assert shares["regressed"] + shares["improved"] <= 0.01  # found 0
    assert shares["no worse"] >= 0.99


def test_a_thing_compared_with_itself_raises_few_alarms_without_a_tolerance() -> None:
    shares = sequential(1.0, 0.02, 0.0, trials=600)
    assert shares["regressed"] + shares["improved"] <= 0.01  # found 0.0067


def test_a_real_change_is_found() -> None:
    assert sequential(1.05, 0.02, 0.03, trials=300)["regressed"] >= 0.95  # found 1


@pytest.mark.parametrize("n", [10, 13, 20, 40])  # found 0.953, 0.982, 0.964, 0.961
def test_intervals_of_the_ratio_cover(n: int) -> None:
    logs = 0.02 * np.random.default_rng(0).standard_t(3, (1500, n))
    found = [decide_paired(np.ones(n), np.exp(row), quantity="p50", tolerance=0.03).ratio for row in logs]
    assert np.mean([ratio.low <= 1 <= ratio.high for ratio in found]) >= 0.935
