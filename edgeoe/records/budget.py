"""The records of a search for the student that loses least within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgeoe.bounds import Count, Fraction, NotNegative, Positive

__all__ = ["BudgetSearch", "Limit", "SearchRound"]


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on a quantity of the artifact on a target.

    quantity: its name in the table QUANTITIES.
    limit: its greatest or least value.
    precision: of the artifact.
    origin: the option that the limit is from; empty for the profile's budget.
    """

    target: str
    quantity: str
    limit: Positive
    sense: Literal["at most", "at least"] = "at most"
    precision: str = "fp32"
    origin: str = ""

    def cost(self, value: float) -> float:
        """`value` of the quantity as a cost, of which less is better: a throughput becomes seconds per image."""
        return value if self.sense == "at most" else 1 / value

    @property
    def greatest_cost(self) -> float:
        """The cost of an artifact that just meets the limit."""
        return self.cost(self.limit)

    def __str__(self) -> str:
        return f"{self.quantity} {self.sense} {self.limit:.4g} on {self.target}"


@dataclass(frozen=True, slots=True)
class SearchRound:
    """A cut that the search chose and measured.

    predicted, measured: the quantity of each limit, by the table, and of the built artifact; no measured value if the
        target is another machine.
    loss: of the cut, as the sum over what is pruned.
    macs_kept: share of the teacher's MACs.
    dropped: number of blocks.
    """

    predicted: tuple[Positive, ...]
    measured: tuple[Positive | None, ...]
    loss: NotNegative
    macs_kept: Fraction
    dropped: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSearch:
    """How the student of a budget was found.

    limits: all must be met.
    teacher: the quantity of each limit for the teacher, in the target's precision.
    rounds: what was tried; the last one that meets the limits is the student.
    student: the quantity of each limit for the student: the end of its interval that a verdict reads, measured as
        `validate` does, or predicted if the target is another machine.
    loss: by how much the student's features and logits differ before training, each as a share of the teacher's
        variance.
    table_seconds, loss_seconds, search_seconds: time for the latency table, with the sensitivity of layers to int8; for
        measuring losses; and for rounds.
    kept_fp32: {variant of an int8 graph: layers of the student that are fp32 in it, and were measured so}.
    """

    limits: tuple[Limit, ...]
    teacher: tuple[Positive, ...]
    rounds: tuple[SearchRound, ...]
    student: tuple[Positive, ...]
    loss: NotNegative
    table_seconds: NotNegative = 0.0
    loss_seconds: NotNegative = 0.0
    search_seconds: NotNegative = 0.0
    kept_fp32: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lists: dict[str, tuple[float | None, ...]] = {"teacher": self.teacher, "student": self.student}
        for number, one in enumerate(self.rounds):
            lists |= {f"rounds[{number}].predicted": one.predicted, f"rounds[{number}].measured": one.measured}
        for name, values in lists.items():
            if len(values) != len(self.limits):
                raise ValueError(f"{name}: {len(values)} values for {len(self.limits)} limits")

    def round_of(self, macs_kept: float) -> SearchRound | None:
        """The round that chose the student, of which `macs_kept` is the share of the teacher's MACs."""
        return next((one for one in reversed(self.rounds) if one.macs_kept == macs_kept), None)
