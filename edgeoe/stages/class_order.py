"""Detection of teachers whose outputs are in another order than the classes of the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeoe.class_names import natural_order

__all__ = ["ClassOrder", "find_order", "mcnemar_p"]

_P = 1e-3  # significance level at which another order is better, by an exact McNemar test
_CLEAR_IMAGES, _CLEAR_SHARE = 3, 2 / 3  # minimum of a class to identify its output


@dataclass(frozen=True, slots=True)
class ClassOrder:
    """An order of the classes in which the teacher agrees with more labels.

    classes: the name of each output.
    right: number of labels that the teacher then agrees with.
    by: rule that gives the order; empty for the best of all orders.
    guessed: classes with too few images to identify their output.
    """

    classes: tuple[str, ...]
    right: int
    by: str = ""
    guessed: tuple[str, ...] = ()


def find_order(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str]
) -> ClassOrder | None:
    """The order in which the outputs agree with significantly more labels; None if there is none.

    There are two candidates: the natural order of the names (2 before 10), and the assignment of outputs to classes
    with the most agreement. In the latter, at least two of the moved classes must have enough images, most of which
    support it. Both must pass an exact McNemar test.

    probabilities: (N, K) of the teacher.
    labels: (N,), indices into `classes`.
    """
    predicted = probabilities.argmax(1)
    natural, best = _natural_order(predicted, labels, classes), _best_order(probabilities, predicted, labels, classes)
    return best if best and (natural is None or best.right > natural.right) else natural


def _natural_order(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]
) -> ClassOrder | None:
    natural = natural_order(classes)
    right_as_is, right_reordered = (
        predicted == labels,
        predicted == np.asarray([natural.index(name) for name in classes])[labels],
    )
    if right_reordered.sum() <= right_as_is.sum() or mcnemar_p(right_as_is, right_reordered) >= _P:
        return None
    return ClassOrder(
        natural, int(right_reordered.sum()), by="that of the numbers in their names, or without regard to case"
    )


def mcnemar_p(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Two-sided p-value of the exact McNemar test that two classifiers are right equally often.

    first, second: (N,) whether each is right on the same images.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**n))


def _best_order(
    probabilities: NDArray[np.float32], predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]
) -> ClassOrder | None:
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped,unused-ignore]

    k = len(classes)
    evidence = np.zeros((k, k))  # for class (row) = output (column), in images
    np.add.at(evidence, labels, probabilities)
    evidence += 1e-6 * np.eye(k)  # without evidence for a move, the output stays
    _, output = linear_sum_assignment(-evidence)
    counts = np.bincount(labels, minlength=k)
    hits = np.bincount(labels[predicted == output[labels]], minlength=k)
    is_clear = (counts >= _CLEAR_IMAGES) & (hits >= _CLEAR_SHARE * counts)
    changed = output != np.arange(k)
    evidence_mask = (changed & is_clear)[labels]
    if (changed & is_clear).sum() < 2 or mcnemar_p(
        (predicted == labels)[evidence_mask], (predicted == output[labels])[evidence_mask]
    ) >= _P:
        return None
    order = [""] * k
    for label, column in enumerate(output.tolist()):
        order[column] = classes[label]
    unclear = tuple(classes[label] for label in np.flatnonzero(changed & ~is_clear).tolist())
    return ClassOrder(tuple(order), int(hits.sum()), guessed=unclear if len(unclear) > 1 else ())
