"""The effect of OE: the same compression without and with it, for several draws of labelled samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from edgeoe.measure.statistics import mean
from edgeoe.records.measurement import Accuracy, Estimate

__all__ = ["FIGURES", "Draw", "Gain", "gains", "statement"]

FIGURES: Mapping[str, Callable[[Accuracy], float]] = MappingProxyType(
    {
        "top-1": lambda accuracy: accuracy.top1.value,
        "recall, 3 rarest": lambda accuracy: _rare_recall(accuracy).value,
        "worst recall": lambda accuracy: accuracy.worst_recall.value,
    }
)


@dataclass(frozen=True, slots=True)
class Draw:
    """Accuracy of the teacher and of both students for one draw of labelled samples, with its rare classes."""

    seed: int
    teacher: Accuracy
    without_oe: Accuracy
    with_oe: Accuracy


@dataclass(frozen=True, slots=True)
class Gain:
    """Means of one figure over draws, as fractions.

    difference: mean of the difference that OE makes within a draw.
    """

    teacher: float
    without_oe: float
    with_oe: float
    difference: Estimate


def gains(draws: Sequence[Draw]) -> dict[str, Gain]:
    """The `Gain` in each of FIGURES, over at least one draw.

    The intervals cover the variation between draws; the teacher and the test images are the same in all of them.
    """
    return {name: _gain(draws, figure) for name, figure in FIGURES.items()}


def _gain(draws: Sequence[Draw], figure: Callable[[Accuracy], float]) -> Gain:
    teacher, without, with_oe = (
        [figure(accuracy) for accuracy in column]
        for column in zip(*((draw.teacher, draw.without_oe, draw.with_oe) for draw in draws), strict=True)
    )
    return Gain(
        teacher=mean(teacher).value,
        without_oe=mean(without).value,
        with_oe=mean(with_oe).value,
        difference=mean([new - base for base, new in zip(without, with_oe, strict=True)]),
    )


def _rare_recall(accuracy: Accuracy) -> Estimate:
    assert accuracy.rare_recall is not None  # noqa: S101 - every class has test digits
    return accuracy.rare_recall


def statement(difference: Estimate, *, draws: int) -> str:
    """The effect of OE on top-1, in one sentence: a gain or a loss only if the interval excludes zero."""
    points = f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}] over {draws} draws of labelled samples"
    if difference.low > 0:
        return f"OE gained {100 * difference.value:.1f} points of top-1 {points}."
    if difference.high < 0:
        return f"OE cost {-100 * difference.value:.1f} points of top-1 {points}: here --no-oe is better."
    return f"OE made no significant difference to top-1: {100 * difference.value:+.1f} points {points}."
