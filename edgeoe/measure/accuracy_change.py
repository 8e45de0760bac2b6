"""Predictions of two artifacts on the same images -> changes of accuracy, as pure functions on numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from edgeoe.measure.decision import check_alpha, count_text
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
    """Changes of top-1, and of the recall of each class of `rare` that has test images.

    base, new: (N,) classes that each artifact predicts for the same images.
    labels: (N,) true classes.
    classes: names of the classes.
    rare: indices of the rare classes.
    tolerance, class_tolerance: loss of top-1, and of a class's recall, that is allowed, as fractions.
    alpha: significance level over all changes.

    Each change has its difference d, new less base, with the interval of `paired_difference`, and the p-value of the
    exact McNemar test; p_adj is that p-value corrected by `holm`. With the tolerance t:
    Regressed: p_adj < alpha and d < -t: the loss is significant, and its estimate is more than t.
    Improved: p_adj < alpha and d > t.
    No worse: otherwise, if the interval lies above -t: the loss, significant or not, is at most the allowed one.
    Inconclusive: otherwise. With t = 0 nothing is ever no worse, since no number of images rules out any loss.
    Raises ValueError if the lengths differ or are 0, or if a tolerance isn't in [0, 1]. Source: McNemar, 1947.
    """
    check_alpha(alpha)
    for limit in (tolerance, class_tolerance):
        if not 0 <= limit <= 1:
            raise ValueError(f"a tolerance of accuracy must be in [0, 1]. Got {limit}.")
    base_classes, new_classes, truth = (np.asarray(row) for row in (base, new, labels))
    if not base_classes.shape == new_classes.shape == truth.shape == (truth.size,) or not truth.size:
        shapes = f"{base_classes.shape}, {new_classes.shape}, {truth.shape}"
        raise ValueError(f"base, new and labels must have one class for each of at least one image. Got {shapes}.")
    right_base, right_new = base_classes == truth, new_classes == truth
    rows = [("top-1", np.ones(truth.shape, dtype=bool), tolerance)]
    rows += [(classes[k], truth == k, class_tolerance) for k in rare if (truth == k).any()]
    losses = [int((mask & right_base & ~right_new).sum()) for _, mask, _ in rows]
    gains = [int((mask & right_new & ~right_base).sum()) for _, mask, _ in rows]
    p_values = [_mcnemar(*counts) for counts in zip(losses, gains, strict=True)]
    adjusted_p = holm(p_values)
    changes = []
    for row, (subject, mask, limit) in enumerate(rows):
        n = int(mask.sum())
        difference = paired_difference(losses[row], gains[row], n)
        change = _accuracy_verdict(difference, tolerance=limit, sure=adjusted_p[row] < alpha)
        reason = f"not enough test images to tell: {count_text(n, 'image')}, the loss may be as much as"
        reason += f" {-100 * difference.low:.2g} points, allowed {100 * limit:g}"
        changes.append(
            AccuracyChange(
                subject=subject,
                images=n,
                only_base=losses[row],
                only_new=gains[row],
                difference=difference,
                p_value=p_values[row],
                tolerance=limit,
                change=change,
                reason=reason if change == "inconclusive" else "",
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
    """Two-sided p-value of the exact McNemar test.

    only_base, only_new: images that only this artifact gets right.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_new, only_base + only_new).pvalue) if only_base + only_new else 1.0
