"""Two sets of latencies -> a change: pure functions on numbers.

A change takes both an interval, for its size, and a test, for its significance. What is neither changed nor shown to be
no worse is inconclusive, with a reason that says what would decide it.
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

__all__ = ["check_alpha", "count_text", "decide_paired", "decide_unpaired", "fewest_rounds", "looks", "ratio_text"]

RESAMPLES = 10_000
_EXACT_PAIRS = 2500  # pairs of processes up to which the exact Mann-Whitney distribution is quick to compute

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
    """Change of a latency between base and new, which were measured interleaved, each in a fresh process per round.

    base_ms, new_ms: (n,) one value per round.
    quantity: the percentile that the values are.
    tolerance: slow-down that is allowed, as a fraction.
    alpha: significance level of one look at one target; several looks at growing n: see `looks`; several targets: see
        `with_holm`.
    seed: random seed of the bootstrap.

    r are the n logarithms of new / base. The ratio is exp(median r), its interval a bootstrap over rounds.
    Regressed: the interval lies above 1 + tolerance, and the exact Wilcoxon signed-rank test of r has p < alpha.
    Improved: the interval lies below 1 / (1 + tolerance), and p < alpha.
    No worse: otherwise, if the interval lies below 1 + tolerance: at most the slow-down that is allowed.
    Inconclusive: otherwise, and always with fewer than fewest_rounds(alpha) rounds.
    The test ignores rounds with a ratio of exactly 1 (Wilcoxon's rule); with other ties scipy permutes, or approximates
    the distribution.
    Raises ValueError if the lengths differ, or a value isn't finite and above 0. Sources: Wilcoxon, 1945; Hesterberg,
    What Teachers Should Know About the Bootstrap, 2015, for the interval.
    """
    base, new = finite_positive(base_ms, what="base_ms"), finite_positive(new_ms, what="new_ms")
    if len(base) != len(new):
        raise ValueError(f"a round has one value of base and one of new. Got {len(base)} and {len(new)}.")
    n, min_rounds = len(base), fewest_rounds(alpha)
    logs = np.sort(np.log(new) - np.log(base))
    too_few = f"{count_text(n, 'round')} can't tell: it takes {min_rounds} for p < {alpha:g}" if n < min_rounds else ""
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
        too_few=too_few,
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
    """Change of a latency between base and new, which were measured at different times.

    It decides as `decide_paired` does, from weaker evidence: whatever changed on the machine in between enters the
    ratio. The ratio is that of the medians, and both sides are resampled; the test is Mann and Whitney's, exact without
    ties.

    base_ms, new_ms: (b,), (n,) one value per process.
    quantity, tolerance, alpha, seed: as for `decide_paired`.
    Raises ValueError if a value isn't finite and above 0. Source: Mann and Whitney, 1947.
    """
    check_alpha(alpha)
    base, new = finite_positive(base_ms, what="base_ms"), finite_positive(new_ms, what="new_ms")
    min_processes = next(n for n in range(2, 1000) if 2 / math.comb(2 * n, n) < alpha)
    too_few = f"{len(base)} and {len(new)} processes can't tell: it takes {min_processes} of each for p < {alpha:g}"
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
        too_few=too_few if min(len(base), len(new)) < min_processes else "",
        more="processes of each, or rounds that run both interleaved,",
    )


def fewest_rounds(alpha: float) -> int:
    """The fewest rounds with which the signed-rank test can have p < alpha; with all of one sign p is 2 / 2^n."""
    check_alpha(alpha)
    return next(n for n in range(1, 2000) if 2.0 ** (1 - n) < alpha)


def looks(fewest: int, most: int) -> list[int]:
    """The numbers of rounds after which a sequential comparison tests: `fewest`, each about a quarter more, `most`.

    With alpha = 0.002 at each look, the looks from 10 to 40 rounds find an artifact changed from itself in 0.9 % of
    cases by the test alone, less often by test and interval, and with a tolerance of 3 % in none of 4500 simulated
    comparisons.
    Raises ValueError unless 1 <= fewest <= most.
    """
    if not 1 <= fewest <= most:
        raise ValueError(f"the fewest rounds must be at least 1 and at most the most rounds. Got {fewest} and {most}.")
    steps = round(math.log(most / fewest) / math.log(1.25)) if most > fewest else 0
    middle = (round(fewest * (most / fewest) ** (step / steps)) for step in range(1, steps))
    return sorted({fewest, *middle, most})


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
    too_few: str,
    more: str,
) -> LatencyChange:
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"the tolerance of a latency must be finite and at least 0. Got {tolerance}.")
    low, high = _interval(resampled, n)
    limit = math.log1p(tolerance)
    ratio = Estimate(math.exp(log_ratio), math.exp(low), math.exp(high))
    change = "inconclusive" if too_few else _latency_verdict(low, high, allowed=limit, sure=p_value < alpha)
    reason = too_few
    if change == "inconclusive" and not too_few:
        above = low > limit
        missing = f"p = {p_value:.2g} is not below {alpha:g}" if above else f"allowed {1 + tolerance:g}"
        reason = f"{ratio_text(ratio)}, {missing}: more {more} {'' if above else 'or a quieter machine '}would tell"
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
    """The 95 % interval from bootstrap medians of n values: their expanded percentiles.

    The plain 2.5 and 97.5 percentiles are too narrow for a small n, since resamples vary less than samples: for a
    median they cover 88 % with 7 values, 91 % with 13, 93 % with 31. Expanded to Phi(-/+ sqrt(n / (n - 1)) t), as
    Hesterberg does, they cover 94 to 98 % with 7 to 60 values.
    """
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr(-math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975))) if n > 1 else 0.0
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _medians(values: NDArray[np.float64], *, seed: int, side: int) -> NDArray[np.float64]:
    """(RESAMPLES,) medians of bootstrap resamples of the sorted `values` (n,)."""
    middle: NDArray[np.float64] = values[_median_ranks(len(values), seed, side)]
    return (middle[:, 0] + middle[:, 1]) / 2


@functools.lru_cache(maxsize=32)
def _median_ranks(n: int, seed: int, side: int) -> NDArray[np.int64]:
    """(RESAMPLES, 2) ranks of the two middle values of each resample of n sorted values.

    Half of the resamples mirror the other half, so that swapping base and new inverts the interval and the verdict.
    """
    indices = np.random.default_rng((seed, side)).integers(n, size=(RESAMPLES // 2, n))
    middle = np.sort(indices, axis=1)[:, [(n - 1) // 2, n // 2]]
    return np.concatenate([middle, n - 1 - middle])


def _signed_rank(logs: NDArray[np.float64]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that `logs` (n,) are symmetric about 0."""
    from scipy.stats import wilcoxon

    nonzero = logs[logs != 0]
    if not len(nonzero):
        return 1.0
    has_ties = len(np.unique(np.abs(nonzero))) < len(nonzero)
    return float(wilcoxon(nonzero, method="auto" if has_ties else "exact").pvalue)


def _rank_sum(base: NDArray[np.float64], new: NDArray[np.float64]) -> float:
    """Two-sided p-value of Mann and Whitney's test."""
    from scipy.stats import mannwhitneyu

    distinct = len(np.unique(np.concatenate([base, new])))
    if distinct == 1:
        return 1.0
    exact = distinct == len(base) + len(new) and len(base) * len(new) <= _EXACT_PAIRS
    return float(mannwhitneyu(base, new, method="exact" if exact else "asymptotic").pvalue)


def check_alpha(alpha: float) -> None:
    """Raise ValueError for a significance level outside (0, 1)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be above 0 and below 1. Got {alpha}.")


def count_text(n: int, noun: str) -> str:
    """A number and its noun."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def ratio_text(ratio: Estimate) -> str:
    """A ratio new / base in words, with its interval."""
    return f"new takes {ratio.value:.3f} of base's time ({ratio.low:.3f} to {ratio.high:.3f})"
