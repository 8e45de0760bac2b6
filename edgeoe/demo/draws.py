"""What OE brought: the same compression without and with it, for several draws of few samples."""

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
    """One draw of few samples: the accuracy of the teacher and of both students, with the rare classes of this draw."""

    seed: int
    teacher: Accuracy
    without_oe: Accuracy
    with_oe: Accuracy


@dataclass(frozen=True, slots=True)
class Gain:
    """The means of one figure over draws, as fractions, and the mean difference that OE makes within a draw."""

    teacher: float
    without_oe: float
    with_oe: float
    difference: Estimate


def gains(draws: Sequence[Draw]) -> dict[str, Gain]:
    """The `Gain` in each of FIGURES, over at least one draw.

    The intervals are over draws of few samples; the teacher and the test images are the same in all of them.
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
    """What OE brought in top-1, in one sentence: a gain or a loss only if the whole interval is one."""
    points = f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}] over {draws} draws of few samples"
    if difference.low > 0:
        return f"OE brought {100 * difference.value:.1f} points of top-1 {points}."
    if difference.high < 0:
        return f"OE cost {-100 * difference.value:.1f} points of top-1 {points}: here --no-oe is better."
    return (
        f"OE made no difference to top-1 that can be told from chance: {100 * difference.value:+.1f} points {points}."
    )
