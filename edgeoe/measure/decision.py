"""Two sets of measurements -> what changed, and what a gate makes of it: pure functions on numbers.

Neither an interval alone nor a test alone makes a change: the one says how much, the other how sure. What is neither
changed nor shown to be unchanged is inconclusive, with a reason that says what would tell.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeoe.measure.statistics import finite_positive, paired_difference
from edgeoe.records import AccuracyChange, Change, Estimate, LatencyChange, Outcome

__all__ = [
    "accuracy_changes",
    "decide_paired",
    "decide_unpaired",
    "fewest_rounds",
    "gate",
    "holm",
    "looks",
    "with_holm",
]

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
    Improved: the interval lies below 1 / (1 + tolerance), and p < alpha. Unchanged: the interval lies within the two.
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
    few = f"{_count(n, 'round')} can't tell: it takes {needed} for p < {alpha:g}" if n < needed else ""
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
    _check_alpha(alpha)
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
    _check_alpha(alpha)
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


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given.

    To take all below alpha for real is wrong about any of them with a probability of at most alpha. Source: Holm, 1979.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def with_holm(changes: Sequence[LatencyChange], alpha: float = 0.002) -> list[LatencyChange]:
    """`changes` of several targets, of which none is called changed for there being many.

    A regressed or improved one whose p-value adjusted by `holm` isn't below alpha becomes inconclusive; p_value stays
    what its own test found. To have the rounds for it, measure k targets with fewest_rounds(alpha / k).
    """
    return [
        dataclasses.replace(
            change,
            change="inconclusive",
            reason=f"{_seen(change.ratio)}, and p = {change.p_value:.2g} is {p:.2g} among {len(changes)} comparisons, "
            f"not below {alpha:g}: more rounds would tell",
        )
        if change.change in ("regressed", "improved") and p >= alpha
        else change
        for change, p in zip(changes, holm([change.p_value for change in changes]), strict=True)
    ]


def gate(latency: Sequence[LatencyChange], accuracy: Sequence[AccuracyChange]) -> tuple[Outcome, str]:
    """What a CI gate makes of one target's changes, and why.

    Failed if anything regressed, be it p99 or one rare class. Inconclusive if p50 or top-1 is, or if there is nothing
    to go by. Else passed: an inconclusive p99 or rare class is told and doesn't hold up the gate, as with 1 % of the
    calls, or a dozen images of a class, hardly any honest change could ever be shown to be harmless.
    """
    told = [
        *((change.change, change.quantity, _latency_told(change)) for change in latency),
        *((change.change, change.subject, _accuracy_told(change)) for change in accuracy),
    ]
    regressed = [text for change, _, text in told if change == "regressed"]
    unsure = [(subject, text) for change, subject, text in told if change == "inconclusive"]
    if regressed:
        return "failed", "; ".join(regressed)
    if not told:
        return "inconclusive", "nothing was compared"
    holding = [text for subject, text in unsure if subject in ("p50", "top-1")]
    return ("inconclusive", "; ".join(holding)) if holding else ("passed", "; ".join(text for _, text in unsure))


def accuracy_changes(
    base: ArrayLike,
    new: ArrayLike,
    labels: ArrayLike,
    *,
    classes: Sequence[str],
    rare: Sequence[int],
    tolerance: float,
    class_tolerance: float,
    alpha: float = 0.01,
) -> tuple[AccuracyChange, ...]:
    """What became of top-1, and of the recall of each class of `rare` that has images.

    base, new, labels: (N,) classes of the same images, predicted by each and true. Each row has its difference d, new
    less base, with the interval of `paired_difference`, and the p-value of the exact McNemar test; p_adj is that by
    `holm` over the rows. With the tolerance t, of a class's row class_tolerance:
    Regressed: p_adj < alpha and d < -t: a loss is sure, and more than t is the best guess.
    Improved: p_adj < alpha and d > t.
    Unchanged: otherwise, if the interval lies above -t: at most a loss that is allowed, be it a sure one.
    Inconclusive: all else. With t = 0 nothing is ever unchanged, as no number of images shows that no loss is possible.
    Raises ValueError if the lengths differ or are 0, or if a tolerance isn't in [0, 1]. Source: McNemar, 1947.
    """
    _check_alpha(alpha)
    for allowed in (tolerance, class_tolerance):
        if not 0 <= allowed <= 1:
            raise ValueError(f"a tolerance of accuracy must be in [0, 1]. Got {allowed}.")
    predicted_base, predicted_new, truth = (np.asarray(row) for row in (base, new, labels))
    if not predicted_base.shape == predicted_new.shape == truth.shape == (truth.size,) or not truth.size:
        shapes = f"{predicted_base.shape}, {predicted_new.shape}, {truth.shape}"
        raise ValueError(f"base, new and labels must have one class for each of at least one image. Got {shapes}.")
    right_base, right_new = predicted_base == truth, predicted_new == truth
    rows = [("top-1", np.ones(truth.shape, dtype=bool), tolerance)]
    rows += [(classes[k], truth == k, class_tolerance) for k in rare if (truth == k).any()]
    lost = [int((of & right_base & ~right_new).sum()) for _, of, _ in rows]
    gained = [int((of & right_new & ~right_base).sum()) for _, of, _ in rows]
    p_values = [_mcnemar(*counts) for counts in zip(lost, gained, strict=True)]
    adjusted = holm(p_values)
    changes = []
    for row, (subject, of, allowed) in enumerate(rows):
        n = int(of.sum())
        difference = paired_difference(lost[row], gained[row], n)
        change = _accuracy_verdict(difference, tolerance=allowed, sure=adjusted[row] < alpha)
        few = f"not enough test images to tell: {_count(n, 'image')}, the loss may be as much as"
        few += f" {-100 * difference.low:.2g} points, allowed {100 * allowed:g}"
        changes.append(
            AccuracyChange(
                subject=subject,
                images=n,
                only_base=lost[row],
                only_new=gained[row],
                difference=difference,
                p_value=p_values[row],
                tolerance=allowed,
                change=change,
                reason=few if change == "inconclusive" else "",
            )
        )
    return tuple(changes)


def _latency_verdict(low: float, high: float, *, allowed: float, sure: bool) -> Change:
    if -allowed <= low and high <= allowed:
        return "unchanged"
    if sure and low > allowed:
        return "regressed"
    return "improved" if sure and high < -allowed else "inconclusive"


def _accuracy_verdict(difference: Estimate, *, tolerance: float, sure: bool) -> Change:
    if sure and difference.value < -tolerance:
        return "regressed"
    if sure and difference.value > tolerance:
        return "improved"
    return "unchanged" if difference.low > -tolerance else "inconclusive"


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
        apart = low > allowed or high < -allowed
        missing = f"p = {p_value:.2g} is not below {alpha:g}" if apart else f"allowed {1 + tolerance:g}"
        reason = f"{_seen(ratio)}, {missing}: more {more} {'' if apart else 'or a quieter machine '}would tell"
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


def _mcnemar(only_base: int, only_new: int) -> float:
    """Two-sided exact p-value that of the images that one alone gets right, each is as likely to be either's."""
    from scipy.stats import binomtest

    return float(binomtest(only_new, only_base + only_new).pvalue) if only_base + only_new else 1.0


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be above 0 and below 1. Got {alpha}.")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _seen(ratio: Estimate) -> str:
    return f"new takes {ratio.value:.3f} of base's time ({ratio.low:.3f} to {ratio.high:.3f})"


def _latency_told(change: LatencyChange) -> str:
    what = change.reason or f"{_seen(change.ratio)}, allowed {1 + change.tolerance:g}"
    return f"{change.quantity} {change.change}: {what}"


def _accuracy_told(change: AccuracyChange) -> str:
    points = Estimate(*(100 * end for end in (change.difference.value, change.difference.low, change.difference.high)))
    what = f"{points.value:+.2g} points ({points.low:+.2g} to {points.high:+.2g}), allowed {-100 * change.tolerance:g}"
    return f"{change.subject} {change.change}: {change.reason or what}"
