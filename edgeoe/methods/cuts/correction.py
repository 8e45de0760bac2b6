"""What the options of a programme save of a limited cost, corrected by the students that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from edgeoe.pruning.programme import Programme, Resource

__all__ = ["Correction"]

# Standard deviations of what an option really saves: relative to what the table says of it, shared by all options, by
# those of alike choices, and by those of one choice; and by itself, as a share of the teacher's cost.
_OF_ALL, _OF_KIND, _OF_CHOICE, _ALONE = 0.5, 0.15, 0.1, 0.002
_OFFSET = 0.15  # of what every student near the limit saves more than its options, as a share of the teacher's cost
# Of the measured cost of a student, as a share of the teacher's; and what is added for each unit of distance from the
# limit, as savings do not add up far from it.
_NOISE, _AWAY = 0.007, 0.15


class Correction:
    """The savings of one resource, in the units of the cost that a limit is about.

    A Gaussian process: the table is the mean of what options save, errors of alike options are correlated, and each
    student that is measured conditions it (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
    equation 2.23). Choices are alike if the table says the same of all of their options.

    programme: its resources are those of the table.
    resource: by index.
    total: what the teacher takes of the resource, in the units of the table.
    cost: of the teacher, in the units of the limit.
    limit: what a student may cost.
    """

    def __init__(self, programme: Programme, resource: int, *, total: float, cost: float, limit: float) -> None:
        self._programme, self._index, self._cost, self._limit = programme, resource, cost, limit
        self._resource = programme.resources[resource]
        self._options = [(c.name, o) for c in programme.choices for o in range(1, len(c.options))]
        self._table = np.array([self._resource.savings[name][o] / total for name, o in self._options])
        self._taken: list[NDArray[np.float64]] = []  # for each student, how far each option counts
        self._saved: list[float] = []  # by each student, as a share of the teacher's cost
        self._variances: list[float] = []

    def observe(self, taken: Mapping[str, int], cost: float) -> None:
        """Learn from the measured cost of the student without `taken`."""
        self._taken.append(self._counted(taken))
        self._saved.append(1 - cost / self._cost)
        self._variances.append(_NOISE**2 + (_AWAY * (cost - self._limit) / self._cost) ** 2)

    def resource(self) -> tuple[Resource, float]:
        """The savings as corrected so far, and what is saved besides; in the units of the limit."""
        *shares, offset = (self._corrected() * self._cost).tolist()
        saved = dict(zip(self._options, shares, strict=True))
        savings = {
            choice.name: [0.0, *(saved[choice.name, option] for option in range(1, len(choice.options)))]
            for choice in self._programme.choices
        }
        return Resource(savings, self._resource.layers), offset

    def _counted(self, taken: Mapping[str, int]) -> NDArray[np.float64]:
        """For each option the share of its saving that counts: 0 where it is not taken, less than 1 beside others."""
        shares = self._programme.counted(taken)[self._index]
        counted = [shares[name] if taken.get(name) == option else 0.0 for name, option in self._options]
        return np.array([*counted, 1.0])

    def _corrected(self) -> NDArray[np.float64]:
        """What each option saves, and the offset, as shares of the teacher's cost."""
        expected = np.append(self._table, 0.0)
        if not self._saved:
            return expected
        taken = np.stack(self._taken)
        crossed = self._covariance @ taken.T
        observed = taken @ crossed + np.diag(self._variances)
        return np.asarray(expected + crossed @ np.linalg.solve(observed, self._saved - taken @ expected))

    @cached_property
    def _covariance(self) -> NDArray[np.float64]:
        kinds: dict[Sequence[float], int] = {}
        names = {choice.name: at for at, choice in enumerate(self._programme.choices)}
        choice = np.array([names[name] for name, _ in self._options])
        kind = np.array([kinds.setdefault(tuple(self._resource.savings[n]), len(kinds)) for n, _ in self._options])
        relative = (
            _OF_ALL**2
            + _OF_KIND**2 * (kind[:, None] == kind[None, :])
            + _OF_CHOICE**2 * (choice[:, None] == choice[None, :])
        )
        options = np.outer(self._table, self._table) * relative + _ALONE**2 * np.eye(len(self._table))
        return np.asarray(block_diag(options, _OFFSET**2))
