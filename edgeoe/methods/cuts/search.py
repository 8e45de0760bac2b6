"""The search for the cut of least loss within a budget: choose by the table, measure, correct, choose again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgeoe.errors import OutOfReachError
from edgeoe.methods.cuts.correction import Correction
from edgeoe.methods.cuts.parts import Taken
from edgeoe.methods.meter import Meter
from edgeoe.pruning.programme import Programme
from edgeoe.pruning.prune import Pruned
from edgeoe.records.budget import SearchRound

__all__ = ["Search"]

_ROUNDS, _CONFIRMED = 10, 3  # cuts that are tried at most, and measured as `validate` does
_NEAR = 0.06  # below the limit: a student that near is no faster than it must be
_MARGIN = 0.03  # below the limit that is aimed at: two measurements of one artifact differ by so much
_SPARE = 0.01  # below the limit that a student must be, measured as `validate` does, to be measured once more
_TRUSTED = 0.8  # of the savings by the table: a limit that needs no more is taken to be within reach

Costs = tuple[float, ...]


@dataclass
class Search:
    """Searches for the options of `programme` that lose least and meet all limits of `meter`.

    student_of: options -> the student.
    teacher: cost of the teacher for each limit.
    totals: what the teacher takes of each limit's resource, in the units of its savings.
    resources: the resource of the programme, by index, that each limit draws on.
    """

    programme: Programme
    meter: Meter
    student_of: Callable[[Taken], Pruned]
    teacher: Costs
    totals: Sequence[float]
    resources: Sequence[int]
    rounds: list[SearchRound] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._bounds = [limit.greatest_cost for limit in self.meter.limits]
        self._corrections = [
            Correction(self.programme, resource, total=total, cost=cost, limit=bound)
            for resource, total, cost, bound in zip(
                self.resources, self.totals, self.teacher, self._bounds, strict=True
            )
        ]
        self._correct()
        self._drifts = [1.0] * len(self._bounds)  # what a final measurement is, by a quick one

    def run(self) -> tuple[Taken, Costs]:
        """The options that lose least, and the cost of their student for each limit, measured as `validate` does.

        Raises OutOfReachError if no student meets the limits.
        """
        tried: list[tuple[Taken, Costs]] = []
        confirmed: dict[int, Costs] = {}  # by index in `tried`
        while len(tried) < _ROUNDS:
            taken = self._choose()
            at = next((at for at, (one, _) in enumerate(tried) if one == taken), len(tried))
            if at in confirmed:
                break
            if at == len(tried):
                tried.append((taken, self._costs(taken)))
                if taken and not self._is_near(tried[at][1]):
                    continue
            confirmed[at] = costs = self._confirmed(taken)
            if not taken or self._is_near(costs) or len(confirmed) == _CONFIRMED:
                break
        meeting = [at for at, (_, costs) in enumerate(tried) if self._meets(confirmed.get(at, costs))]
        for at in sorted(meeting, key=lambda at: self.programme.loss(tried[at][0])):
            taken, _ = tried[at]
            if self._meets(costs := confirmed.get(at) or self._confirmed(taken)):
                return taken, costs
        nearest = min((confirmed.get(at, costs) for at, (_, costs) in enumerate(tried)), key=self._excess)
        raise self._refusal(nearest)

    def require_reach(self) -> None:
        """Raise OutOfReachError if the smallest student does not meet the limits.

        It is measured only if the limits need most of what can be saved by the table, or more.
        """
        if self._corrected.least_loss([need / _TRUSTED for need in self._needed()]) is None:
            costs = self._costs(self.programme.smallest())
            if not self._meets(costs):
                raise self._refusal(costs)

    @property
    def is_met(self) -> bool:
        """Whether the teacher meets the limits."""
        return self._meets(self.teacher)

    def predicted(self, taken: Taken) -> Costs:
        """The cost of a student for each limit, by the table as corrected so far."""
        saved = self._corrected.saved(taken)
        return tuple(
            cost - each - offset for cost, each, offset in zip(self.teacher, saved, self._offsets, strict=True)
        )

    def _correct(self) -> None:
        """Make the programme with a resource for each limit: what is saved of its cost, as corrected so far."""
        corrected, self._offsets = zip(*(one.resource() for one in self._corrections), strict=True)
        self._corrected = Programme(self.programme.choices, corrected)

    def _choose(self) -> Taken:
        needed = self._needed()
        if not any(need > 0 for need in needed):
            return {}  # nothing is lost without a cut; of cuts that lose nothing the solver may take any
        taken = self._corrected.least_loss(needed)
        return self.programme.smallest() if taken is None else taken

    def _needed(self) -> list[float]:
        """What must be saved of the cost of each limit."""
        return [
            cost - bound / drift * (1 - _MARGIN) - offset if cost > bound * (1 - _SPARE) else 0.0
            for cost, bound, drift, offset in zip(self.teacher, self._bounds, self._drifts, self._offsets, strict=True)
        ]

    def _costs(self, taken: Taken) -> Costs:
        """The costs of a student, measured where its target is here; they correct the rates."""
        predicted = tuple(guess * drift for guess, drift in zip(self.predicted(taken), self._drifts, strict=True))
        pruned = self.student_of(taken)
        measured = tuple(self.teacher) if not taken else self.meter.costs(pruned.model, final=False)
        costs = tuple(
            guess if cost is None else cost * drift
            for guess, cost, drift in zip(predicted, measured, self._drifts, strict=True)
        )
        quantities = zip(self.meter.limits, predicted, costs, measured, strict=True)
        figures = [(limit.cost(guess), None if m is None else limit.cost(cost)) for limit, guess, cost, m in quantities]
        self.rounds.append(
            SearchRound(
                predicted=tuple(guess for guess, _ in figures),
                measured=tuple(cost for _, cost in figures),
                loss=self.programme.loss(taken),
                macs_kept=pruned.macs_kept,
                dropped=len(pruned.dropped),
            )
        )
        if taken:
            for correction, cost in zip(self._corrections, measured, strict=True):
                if cost is not None:
                    correction.observe(taken, cost)
            self._correct()
        return costs

    def _confirmed(self, taken: Taken) -> Costs:
        """The costs of a student as `validate` measures them; where they differ from a quick measurement, later choices
        allow for that."""
        if not taken:
            return tuple(self.teacher)
        quick = self.predicted(taken)  # as a quick measurement of it has corrected the table
        final = self.meter.costs(self.student_of(taken).model, final=True)
        costs = tuple(guess if cost is None else cost for guess, cost in zip(quick, final, strict=True))
        self._drifts = [cost / guess if guess > 0 else 1.0 for cost, guess in zip(costs, quick, strict=True)]
        return costs

    def _excess(self, costs: Costs) -> float:
        return max(cost / bound for cost, bound in zip(costs, self._bounds, strict=True))

    def _meets(self, costs: Costs) -> bool:
        return self._excess(costs) <= 1 - _SPARE

    def _is_near(self, costs: Costs) -> bool:
        return 1 - _NEAR < self._excess(costs) <= 1 - _SPARE

    def _refusal(self, costs: Costs) -> OutOfReachError:
        missed = [
            f"{limit} (the nearest student reaches {limit.cost(cost):.4g}, the teacher {limit.cost(teacher):.4g})"
            for limit, cost, teacher in zip(self.meter.limits, costs, self.teacher, strict=True)
            if cost > limit.greatest_cost * (1 - _SPARE)
        ]
        return OutOfReachError(f"no student of this teacher can meet {' and '.join(missed)}.")
