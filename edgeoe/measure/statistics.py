"""Percentiles and 95 % intervals, each by one documented rule. tools/bench_intervals.py measures their coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeoe.records.measurement import Estimate

__all__ = [
    "finite_positive",
    "mean",
    "mean_of_proportions",
    "nearest_rank",
    "over_processes",
    "paired_difference",
    "percentile_over_processes",
    "proportion",
    "variation",
]

_Z = 1.959963984540054  # 97.5 % point of the standard normal distribution


def proportion(hits: int, n: int) -> Estimate:
    """Share `hits` / `n` with its Wilson score interval, which holds up for small n and shares near 0 or 1.

    n: > 0. Source: Wilson, 1927.
    """
    share, z2 = hits / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Estimate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def mean(values: Sequence[float]) -> Estimate:
    """Mean of `values` of independent repetitions, and its Student t interval.

    The interval of a single value is unbounded: minus infinity to infinity. Raises ValueError without values.
    """
    from scipy.special import stdtrit

    n = len(values)
    if not n:
        raise ValueError("a mean needs at least one value. Got none.")
    value = float(np.mean(values))
    if n == 1:
        return Estimate(value, -math.inf, math.inf)
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(value, value - half, value + half)


def mean_of_proportions(hits: Sequence[int], n: Sequence[int]) -> Estimate:
    """Mean of the shares `hits` / `n` of independent groups of equal weight, with its adjusted Wald interval.

    hits, n: per group, n > 0, at least one group; a single group is a `proportion`.

    The alternative, square-and-add of Wilson intervals, is worse: with a few images per class its upper end lies below
    the truth 6 to 15 % of the time instead of 2.5 %, so that a gate would fail what is good enough; here it is 2 to
    6 %. Source: Price and Bonett, 2004.
    """
    if len(hits) == 1:
        return proportion(hits[0], n[0])
    m = len(hits)
    value = sum(hit / count for hit, count in zip(hits, n, strict=True)) / m
    adjusted = [((hit + 2 / m) / (count + 4 / m), count + 4 / m) for hit, count in zip(hits, n, strict=True)]
    centre = sum(share for share, _ in adjusted) / m
    half = _Z / m * math.sqrt(sum(share * (1 - share) / count for share, count in adjusted))
    return Estimate(value, min(value, max(0.0, centre - half)), max(value, min(1.0, centre + half)))


def paired_difference(only_base: int, only_new: int, n: int) -> Estimate:
    """Share of `n` images that new gets right less that of base, both on the same images, with its score interval.

    only_base, only_new: images that only this one gets right; swap them for a drop, base less new.
    n: all images.

    The interval holds every difference that a score test does not reject. If only base or only new gains images, its
    far end is Wilson's, so that without any difference it still reaches to z² / (n + z²). That end is the reason for
    this interval, since a gate tests it: in simulation losses lie beyond it 4 % of the time at worst instead of 2.5 %,
    against 6.5 % for the narrower adjusted Wald interval of Bonett and Price (2012).
    Raises ValueError if the counts are negative or more than n. Source: Tango, 1998.
    """
    if n <= 0 or min(only_base, only_new) < 0 or only_base + only_new > n:
        raise ValueError(f"only_base + only_new must be within 0 and n > 0. Got {only_base} + {only_new}, n = {n}.")
    return Estimate(
        value=(only_new - only_base) / n,
        low=-_highest_gain(only_base, only_new, n),
        high=_highest_gain(only_new, only_base, n),
    )


def _highest_gain(gained: int, lost: int, n: int) -> float:
    """The difference of shares above (gained - lost) / n at which the score statistic falls to -z."""
    from scipy.optimize import brentq

    def excess(delta: float) -> float:  # z + score(delta), times the score's standard deviation: finite at the ends
        b = (2 * n - gained + lost) * delta - gained - lost
        q = (math.sqrt(max(0.0, b * b + 8 * n * lost * delta * (1 - delta))) - b) / (
            4 * n
        )  # share of lost, given delta
        return gained - lost - n * delta + _Z * math.sqrt(max(0.0, n * (2 * q + delta * (1 - delta))))

    if gained == n:
        return 1.0
    return float(brentq(excess, (gained - lost) / n + 1e-9, 1.0, xtol=1e-12))  # just above: the score is 0 / 0 there


def finite_positive(values: ArrayLike, *, what: str) -> NDArray[np.float64]:
    """`values` as (n,) floats. Raises ValueError if there are none, or not all are finite and above 0.

    what: their name in the message.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{what} must be a row of at least one number. Got the shape {array.shape}.")
    if not (np.isfinite(array).all() and (array > 0).all()):
        bad = array[~(np.isfinite(array) & (array > 0))][0]
        raise ValueError(f"{what} must be finite and above 0. Got {bad}.")
    return array


def nearest_rank(samples: NDArray[np.float64], share: float) -> float:
    """The `share` percentile of `samples` by nearest rank: the ceil(share n)-th smallest.

    With few samples it is biased low: of all calls, 2 % exceed the 99th of 100 samples, not 1 %.

    samples: (n,)
    share: in (0, 1].
    Raises ValueError without samples.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1. Got {share}.")
    if not len(samples):
        raise ValueError("a percentile needs at least one sample. Got none.")
    rank = math.ceil(share * len(samples) - 1e-9) - 1  # 0.07 * 100 is 7.000000000000001
    return float(np.partition(samples, rank)[rank])


def over_processes(values: Sequence[float]) -> Estimate:
    """Geometric mean of one positive value per process, and its Student t interval on the log scale.

    Calls in one process share its memory layout and its moment, so only processes count as repetitions. The interval
    of a single process is unbounded: 0 to infinity. Source: Kalibera and Jones, Rigorous Benchmarking in Reasonable
    Time, 2013. Raises ValueError as finite_positive does.
    """
    from scipy.special import stdtrit

    logs = np.log(finite_positive(values, what="values of processes"))
    mean, n = float(logs.mean()), len(logs)
    if n == 1:
        return Estimate(math.exp(mean), 0.0, math.inf)
    half = float(stdtrit(n - 1, 0.975)) * float(logs.std(ddof=1)) / math.sqrt(n)
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def percentile_over_processes(samples: Sequence[NDArray[np.float64]], share: float) -> Estimate:
    """The `share` percentile of all processes' calls together, by nearest rank, and its 95 % interval.

    samples: one row of positive values per process.
    share: in (0, 1].

    The calls are pooled, since slow calls come in bursts that a single process may miss, so that the mean of the
    processes' p99 would be far too low. The interval is Student's t on the log scale with the standard error of the
    jackknife over processes, and at least as wide as the interval of ranks of independent calls. The interval of a
    single process is unbounded: 0 to infinity. With so few calls that the percentile is their maximum, the upper end is
    infinite.
    Raises ValueError as finite_positive does. Source: Miller, The Jackknife - A Review, 1974.
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped,unused-ignore]

    rows = [finite_positive(row, what="calls of a process") for row in samples]
    if not rows:
        raise ValueError("a percentile needs at least one process. Got none.")
    pooled, processes = np.sort(np.concatenate(rows)), len(rows)
    value, n = nearest_rank(pooled, share), len(pooled)
    if processes == 1:
        return Estimate(value, 0.0, math.inf)
    replicates = [math.log(nearest_rank(np.concatenate(rows[:at] + rows[at + 1 :]), share)) for at in range(processes)]
    standard_error = math.sqrt(
        (processes - 1) / processes * sum((replicate - sum(replicates) / processes) ** 2 for replicate in replicates)
    )
    half = float(stdtrit(processes - 1, 0.975)) * standard_error
    spread = _Z * math.sqrt(n * share * (1 - share))
    low, high = math.floor(n * share - spread), math.ceil(n * share + spread) + 1  # ranks, from 1
    return Estimate(
        value,
        min(value * math.exp(-half), float(pooled[low - 1]) if low >= 1 else 0.0),
        max(value * math.exp(half), float(pooled[high - 1]) if high <= n else math.inf),
    )


def variation(values: Sequence[float]) -> float:
    """Coefficient of variation: the standard deviation (n - 1) over the mean.

    values: at least two, all above 0. Raises ValueError otherwise.
    """
    array = finite_positive(values, what="values")
    if len(array) < 2:
        raise ValueError("a variation needs at least two values. Got one.")
    return float(array.std(ddof=1) / array.mean())
