"""The search for the cut of least loss within a budget: choose by the table, measure, correct, choose again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeoe.errors import PruningError
from edgeoe.methods.meter import Meter
from edgeoe.pruning.programme import Programme
from edgeoe.pruning.prune import Pruned
from edgeoe.records.budget import SearchRound

__all__ = ["Search", "Taken"]

_ROUNDS = 8
_NEAR = 0.03  # below the limit: a student that near is no faster than it must be
_MARGIN = 0.01  # below the limit that is aimed at, since two measurements of one artifact differ

Taken = Mapping[str, int]


@dataclass
class Search:
    """Searches for the options of `programme` that lose least and meet all limits of `meter`.

    student_of: {choice: option} -> the student.
    teacher: cost of the teacher for each limit.
    totals: what the teacher takes of each limit's resource, in the units of its savings.
    resources: the resource of the programme, by index, that each limit draws on.
    measures: whether students can be measured here; else the table alone decides.
    """

    programme: Programme
    meter: Meter
    student_of: Callable[[Taken], Pruned]
    teacher: Sequence[float]
    totals: Sequence[float]
    resources: Sequence[int]
    measures: bool = True
    rounds: list[SearchRound] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rates = [cost / total for cost, total in zip(self.teacher, self.totals, strict=True)]
        self._bounds = [limit.greatest_cost for limit in self.meter.limits]

    def run(self) -> tuple[Taken, tuple[float, ...]]:
        """The options that lose least, and the cost of their student for each limit.

        Raises PruningError if no student meets the limits.
        """
        best: tuple[float, Taken, tuple[float, ...]] | None = None
        tried: list[Taken] = []
        while len(tried) < _ROUNDS:
            taken = self._choose()
            if taken in tried:
                break
            tried.append(taken)
            costs = self._costs(taken)
            if self._meets(costs):
                loss = self.programme.loss(taken)
                best = (loss, taken, costs) if best is None or loss < best[0] else best
                if not taken or self._is_near(costs):
                    break
        if best is None:
            self._refuse(tried)
        _, taken, costs = best
        return taken, costs

    def _choose(self) -> Taken:
        needed = [0.0] * len(self.programme.resources)
        for limit, resource in enumerate(self.resources):
            aim = self._bounds[limit] * (1 - _MARGIN) if self.teacher[limit] > self._bounds[limit] else float("inf")
            needed[resource] = max(needed[resource], (self.teacher[limit] - aim) / max(self._rates[limit], 1e-12))
        taken = self.programme.least_loss(needed)
        return self.programme.smallest() if taken is None else taken

    def predicted(self, taken: Taken) -> tuple[float, ...]:
        """The cost of a student for each limit, by the table."""
        saved = self.programme.saved(taken)
        return tuple(
            cost - rate * saved[resource]
            for cost, rate, resource in zip(self.teacher, self._rates, self.resources, strict=True)
        )

    def _costs(self, taken: Taken) -> tuple[float, ...]:
        """The measured costs of a student, or the predicted ones; the rates are corrected by the former."""
        predicted, pruned = self.predicted(taken), self.student_of(taken)
        measured = None
        if not taken:
            measured = tuple(self.teacher)
        elif self.measures:
            measured = self.meter.costs(pruned.model)
        self.rounds.append(
            SearchRound(
                predicted=self._quantities(predicted),
                measured=self._quantities(measured) if measured else None,
                loss=self.programme.loss(taken),
                macs_kept=pruned.macs_kept,
                dropped=len(pruned.dropped),
            )
        )
        if measured is None:
            return predicted
        saved = self.programme.saved(taken)
        for limit, resource in enumerate(self.resources):
            if saved[resource] > 0:
                self._rates[limit] = (self.teacher[limit] - measured[limit]) / saved[resource]
        return measured

    def _quantities(self, costs: Sequence[float]) -> tuple[float, ...]:
        return tuple(limit.cost(cost) for limit, cost in zip(self.meter.limits, costs, strict=True))

    def _meets(self, costs: Sequence[float]) -> bool:
        return all(cost <= bound for cost, bound in zip(costs, self._bounds, strict=True))

    def _is_near(self, costs: Sequence[float]) -> bool:
        return max(cost / bound for cost, bound in zip(costs, self._bounds, strict=True)) > 1 - _NEAR

    def _refuse(self, tried: Sequence[Taken]) -> None:
        raise PruningError("TODO")
