"""Percentiles and 95 % intervals, each by one documented rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeoe.records import Estimate

__all__ = ["mean_of_proportions", "percentile", "proportion"]

_Z = 1.959963984540054  # 97.5 % point of the standard normal distribution


def proportion(hits: int, n: int) -> Estimate:
    """Share `hits` / `n` with its Wilson score interval, which holds up for small n and shares near 0 or 1.

    n: > 0. Source: Wilson, 1927.
    """
    share, z2 = hits / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Estimate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def mean_of_proportions(parts: Sequence[Estimate]) -> Estimate:
    """Mean of independent proportions, its interval recovered from theirs.

    parts: at least one. Source: the square-and-add rule (MOVER) of Zou and Donner, 2008.
    """
    n = len(parts)
    mean = sum(part.value for part in parts) / n
    down = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / n
    up = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / n
    return Estimate(mean, max(0.0, mean - down), min(1.0, mean + up))


def percentile(samples: NDArray[np.float64], share: float) -> Estimate:
    """The `share` percentile of `samples` (n,), all >= 0, by nearest rank: the ceil(share n)-th smallest.

    Its interval runs between the order statistics whose ranks hold the true percentile with 95 %
    (normal approximation of the binomial). Where n is too small to have such a rank, the end is 0 or infinite.
    """
    ordered = np.sort(samples)
    n = len(ordered)
    spread = _Z * math.sqrt(n * share * (1 - share))
    low, high = math.floor(n * share - spread), math.ceil(n * share + spread) + 1
    return Estimate(
        value=float(ordered[math.ceil(share * n) - 1]),
        low=float(ordered[low - 1]) if low >= 1 else 0.0,
        high=float(ordered[high - 1]) if high <= n else math.inf,
    )
