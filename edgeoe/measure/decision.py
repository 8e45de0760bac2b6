"""Two sets of latencies -> what changed: pure functions on numbers.

Neither an interval alone nor a test alone makes a change: the one says how much, the other how sure. What is neither
changed nor shown to be no worse is inconclusive, with a reason that says what would tell.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeoe.measure.statistics import finite_positive
from edgeoe.records.comparison import Change, LatencyChange
from edgeoe.records.measurement import Estimate

__all__ = ["check_alpha", "counted", "decide_paired", "decide_unpaired", "fewest_rounds", "looks", "ratio_text"]

RESAMPLES = 10_000
_EXACT_PAIRS = 2500  # of processes, up to which the exact Mann-Whitney distribution is quick to have

Quantity = Literal["p50", "p99"]


def decide_paired(
    base_ms: ArrayLike,
    new_ms: ArrayLike,
    *,
    quantity: Quantity,
    tolerance: float,
    alpha: float = 0.002,
    seed: int = 0,
) -> LatencyChange:
    """What became of a latency, from rounds in which base and new ran interleaved, each in a fresh process.

    base_ms, new_ms: (n,) one value a round; r are the n logarithms of new / base. The ratio is that of the median r,
    its interval a bootstrap over rounds.
    Regressed: the interval lies above 1 + tolerance, and the exact Wilcoxon signed-rank test of r has p < alpha.
    Improved: the interval lies below 1 / (1 + tolerance), and p < alpha. No worse: otherwise, if the interval lies
    below 1 + tolerance: at most a slow-down that is allowed, and perhaps an improvement.
    Inconclusive: all else, and always with fewer than fewest_rounds(alpha). alpha is for one look of several at growing
    n, and for one target: see looks and with_holm.
    Rounds with a ratio of exactly 1 don't count in the test (Wilcoxon's rule); where others tie, scipy permutes, or
    approximates the distribution.
    Raises ValueError if the lengths differ, or a value isn't finite and above 0. Sources: Wilcoxon, 1945; Hesterberg,
    What Teachers Should Know About the Bootstrap, 2015, for the interval.
    """
    base, new = finite_positive(base_ms, what="base_ms"), finite_positive(new_ms, what="new_ms")
    if len(base) != len(new):
        raise ValueError(f"a round has one value of base and one of new. Got {len(base)} and {len(new)}.")
    n, needed = len(base), fewest_rounds(alpha)
    logs = np.sort(np.log(new) - np.log(base))
    few = f"{counted(n, 'round')} can't tell: it takes {needed} for p < {alpha:g}" if n < needed else ""
    return _latency_change(
        quantity=quantity,
        base=base,
        new=new,
        log_ratio=float(np.median(logs)),
        resampled=_medians(logs, seed=seed, side=0),
        p_value=_signed_rank(logs),
        n=n,
        tolerance=tolerance,
        alpha=alpha,
        few=few,
        more="rounds",
    )


def decide_unpaired(
    base_ms: ArrayLike,
    new_ms: ArrayLike,
    *,
    quantity: Quantity,
    tolerance: float,
    alpha: float = 0.002,
    seed: int = 0,
) -> LatencyChange:
    """What became of a latency, from samples that were taken at different times: as decide_paired, with less to go by.

    base_ms, new_ms: (b,), (n,) one value per process. The ratio is that of the medians, resampled on both sides; the
    test is Mann and Whitney's, exact without ties. Whatever the machine did between the two is in the ratio.
    Raises ValueError if a value isn't finite and above 0. Source: Mann and Whitney, 1947.
    """
    check_alpha(alpha)
    base, new = finite_positive(base_ms, what="base_ms"), finite_positive(new_ms, what="new_ms")
    needed = next(n for n in range(2, 1000) if 2 / math.comb(2 * n, n) < alpha)
    few = f"{len(base)} and {len(new)} processes can't tell: it takes {needed} of each for p < {alpha:g}"
    logs_base, logs_new = np.sort(np.log(base)), np.sort(np.log(new))
    return _latency_change(
        quantity=quantity,
        base=base,
        new=new,
        log_ratio=float(np.median(logs_new) - np.median(logs_base)),
        resampled=_medians(logs_new, seed=seed, side=1) - _medians(logs_base, seed=seed, side=0),
        p_value=_rank_sum(logs_base, logs_new),
        n=min(len(base), len(new)),
        tolerance=tolerance,
        alpha=alpha,
        few=few if min(len(base), len(new)) < needed else "",
        more="processes of each, or rounds that run both interleaved,",
    )


def fewest_rounds(alpha: float) -> int:
    """The fewest rounds with which the signed-rank test can have p < alpha: all of one sign have 2 / 2^n."""
    check_alpha(alpha)
    return next(n for n in range(1, 2000) if 2.0 ** (1 - n) < alpha)


def looks(fewest: int, most: int) -> list[int]:
    """The numbers of rounds after which a sequential comparison looks: `fewest`, each about a quarter more, `most`.

    With p < 0.002 at each, the looks from 10 to 40 rounds call a thing changed from itself in 0.9 % of cases by
    the test alone, so less by test and interval, and with a tolerance of 3 % in none of 4500 simulated comparisons.
    Raises ValueError unless 1 <= fewest <= most.
    """
    if not 1 <= fewest <= most:
        raise ValueError(f"the fewest rounds must be at least 1 and at most the most rounds. Got {fewest} and {most}.")
    steps = round(math.log(most / fewest) / math.log(1.25)) if most > fewest else 0
    between = (round(fewest * (most / fewest) ** (step / steps)) for step in range(1, steps))
    return sorted({fewest, *between, most})


def _latency_verdict(low: float, high: float, *, allowed: float, sure: bool) -> Change:
    if sure and low > allowed:
        return "regressed"
    if sure and high < -allowed:
        return "improved"
    return "no worse" if high <= allowed else "inconclusive"


def _latency_change(
    *,
    quantity: Quantity,
    base: NDArray[np.float64],
    new: NDArray[np.float64],
    log_ratio: float,
    resampled: NDArray[np.float64],
    p_value: float,
    n: int,
    tolerance: float,
    alpha: float,
    few: str,
    more: str,
) -> LatencyChange:
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"the tolerance of a latency must be finite and at least 0. Got {tolerance}.")
    low, high = _interval(resampled, n)
    allowed = math.log1p(tolerance)
    ratio = Estimate(math.exp(log_ratio), math.exp(low), math.exp(high))
    change = "inconclusive" if few else _latency_verdict(low, high, allowed=allowed, sure=p_value < alpha)
    reason = few
    if change == "inconclusive" and not few:
        beyond = low > allowed
        missing = f"p = {p_value:.2g} is not below {alpha:g}" if beyond else f"allowed {1 + tolerance:g}"
        reason = f"{ratio_text(ratio)}, {missing}: more {more} {'' if beyond else 'or a quieter machine '}would tell"
    return LatencyChange(
        quantity=quantity,
        base_ms=float(np.median(base)),
        new_ms=float(np.median(new)),
        ratio=ratio,
        p_value=p_value,
        tolerance=tolerance,
        n=n,
        change=change,
        reason=reason,
    )


def _interval(resampled: NDArray[np.float64], n: int) -> tuple[float, float]:
    """The 95 % interval from resampled medians of n values: their percentiles, expanded.

    The plain 2.5 and 97.5 percentiles are too narrow for a small n, as resamples vary less than samples: those of a
    median hold the truth 88 % of the time with 7 values, 91 % with 13, 93 % with 31. Expanded as Hesterberg has it, to
    Phi(-/+ sqrt(n / (n - 1)) t), they hold it 94 to 98 % with 7 to 60.
    """
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr(-math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975))) if n > 1 else 0.0
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _medians(ordered: NDArray[np.float64], *, seed: int, side: int) -> NDArray[np.float64]:
    """(RESAMPLES,) medians of as many resamples of `ordered` (n,), which is sorted."""
    middle: NDArray[np.float64] = ordered[_median_ranks(len(ordered), seed, side)]
    return (middle[:, 0] + middle[:, 1]) / 2


@functools.lru_cache(maxsize=32)
def _median_ranks(n: int, seed: int, side: int) -> NDArray[np.int64]:
    """(RESAMPLES, 2) ranks of the two values in the middle of each resample of n sorted values.

    Half of the resamples mirror the others, so that to swap base and new inverts the interval and the verdict.
    """
    drawn = np.random.default_rng((seed, side)).integers(n, size=(RESAMPLES // 2, n))
    middle = np.sort(drawn, axis=1)[:, [(n - 1) // 2, n // 2]]
    return np.concatenate([middle, n - 1 - middle])


def _signed_rank(logs: NDArray[np.float64]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that `logs` (n,) lie about 0."""
    from scipy.stats import wilcoxon

    moved = logs[logs != 0]
    if not len(moved):
        return 1.0
    tied = len(np.unique(np.abs(moved))) < len(moved)
    return float(wilcoxon(moved, method="auto" if tied else "exact").pvalue)


def _rank_sum(base: NDArray[np.float64], new: NDArray[np.float64]) -> float:
    """Two-sided p-value of Mann and Whitney's test."""
    from scipy.stats import mannwhitneyu

    different = len(np.unique(np.concatenate([base, new])))
    if different == 1:
        return 1.0
    exact = different == len(base) + len(new) and len(base) * len(new) <= _EXACT_PAIRS
    return float(mannwhitneyu(base, new, method="exact" if exact else "asymptotic").pvalue)


def check_alpha(alpha: float) -> None:
    """Raise ValueError for a level that is none."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be above 0 and below 1. Got {alpha}.")


def counted(n: int, noun: str) -> str:
    """A number and its noun."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def ratio_text(ratio: Estimate) -> str:
    """A ratio new / base in words, with its interval."""
    return f"new takes {ratio.value:.3f} of base's time ({ratio.low:.3f} to {ratio.high:.3f})"
