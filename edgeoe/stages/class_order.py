"""Whether the teacher's outputs are the classes in another order than the labels are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeoe.class_names import natural_order

__all__ = ["ClassOrder", "find_order", "mcnemar_p"]

_P = 1e-3  # of an exact McNemar test, at which an order is better by more than chance
_CLEAR_IMAGES, _CLEAR_SHARE = 3, 2 / 3  # that tell which output a class has


@dataclass(frozen=True, slots=True)
class ClassOrder:
    """An order of the classes in which the teacher agrees with more labels.

    classes: the name of each output. right: labels that the teacher then agrees with. by: how the order is made, empty
    if it was found by trying all. guessed: classes with too few images to tell their output.
    """

    classes: tuple[str, ...]
    right: int
    by: str = ""
    guessed: tuple[str, ...] = ()


def find_order(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str]
) -> ClassOrder | None:
    """The order in which the outputs agree with clearly more labels; None if there is none.

    probabilities: (N, K) of the teacher. labels: (N,), indices into `classes`. Two are tried: the natural order of the
    names (2 before 10), and the assignment of outputs to classes with the most agreement, of which at least two classes
    that it moves must have enough images that mostly speak for it. Both need an exact McNemar test.
    """
    chosen = probabilities.argmax(1)
    natural, best = _natural_order(chosen, labels, classes), _best_order(probabilities, chosen, labels, classes)
    return best if best and (natural is None or best.right > natural.right) else natural


def _natural_order(chosen: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]) -> ClassOrder | None:
    natural = natural_order(classes)
    own, other = chosen == labels, chosen == np.asarray([natural.index(name) for name in classes])[labels]
    if other.sum() <= own.sum() or mcnemar_p(own, other) >= _P:
        return None
    return ClassOrder(natural, int(other.sum()), by="that of the numbers in their names, or without regard to case")


def mcnemar_p(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """The two-sided p-value of the exact McNemar test: whether two judges of the same images are right as often."""
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    n = only_one + only_other
    tail = sum(math.comb(n, k) for k in range(min(only_one, only_other) + 1))
    return min(1.0, float(2 * tail / 2**n))


def _best_order(
    probabilities: NDArray[np.float32], chosen: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]
) -> ClassOrder | None:
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped,unused-ignore]

    k = len(classes)
    evidence = np.zeros((k, k))  # of class (row) for output (column), in images
    np.add.at(evidence, labels, probabilities)
    evidence += 1e-6 * np.eye(k)  # where nothing speaks for a move, the output stays
    _, output = linear_sum_assignment(-evidence)
    counts = np.bincount(labels, minlength=k)
    hits = np.bincount(labels[chosen == output[labels]], minlength=k)
    clear = (counts >= _CLEAR_IMAGES) & (hits >= _CLEAR_SHARE * counts)
    moved = output != np.arange(k)
    seen = (moved & clear)[labels]
    if (moved & clear).sum() < 2 or mcnemar_p((chosen == labels)[seen], (chosen == output[labels])[seen]) >= _P:
        return None
    order = [""] * k
    for label, column in enumerate(output.tolist()):
        order[column] = classes[label]
    guessed = tuple(classes[label] for label in np.flatnonzero(moved & ~clear).tolist())
    return ClassOrder(tuple(order), int(hits.sum()), guessed=guessed if len(guessed) > 1 else ())
