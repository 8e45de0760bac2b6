"""Two artifacts' predictions on the same images -> whether one is right less often: pure functions on numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from edgeoe.measure.decision import check_alpha, counted
from edgeoe.measure.gate import holm
from edgeoe.measure.statistics import paired_difference
from edgeoe.records.comparison import AccuracyChange, Change
from edgeoe.records.measurement import Estimate

__all__ = ["accuracy_changes"]


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
    No worse: otherwise, if the interval lies above -t: at most a loss that is allowed, be it a sure one.
    Inconclusive: all else. With t = 0 nothing is ever no worse, as no number of images shows that no loss is possible.
    Raises ValueError if the lengths differ or are 0, or if a tolerance isn't in [0, 1]. Source: McNemar, 1947.
    """
    check_alpha(alpha)
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
        few = f"not enough test images to tell: {counted(n, 'image')}, the loss may be as much as"
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


def _accuracy_verdict(difference: Estimate, *, tolerance: float, sure: bool) -> Change:
    if sure and difference.value < -tolerance:
        return "regressed"
    if sure and difference.value > tolerance:
        return "improved"
    return "no worse" if difference.low > -tolerance else "inconclusive"


def _mcnemar(only_base: int, only_new: int) -> float:
    """Two-sided exact p-value that of the images that one alone gets right, each is as likely to be either's."""
    from scipy.stats import binomtest

    return float(binomtest(only_new, only_base + only_new).pvalue) if only_base + only_new else 1.0
