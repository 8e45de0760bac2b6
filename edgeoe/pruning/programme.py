"""Allocation to a budget as an integer programme: which width of each group, and which blocks, lose least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from edgeoe.pruning.native_output import native_output_dropped

__all__ = ["Choice", "Option", "Programme"]

_SECONDS, _GAP = 20.0, 0.002  # of the solver: when it stops, and how far from the least loss it may stop
_WHOLE = 0  # the option of a choice that prunes nothing


@dataclass(frozen=True, slots=True)
class Option:
    """A state of one choice.

    loss: what it adds to the loss.
    shares: {layer: share of the layer that it removes}, 0 to 1.
    """

    loss: float
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Choice:
    """What can be pruned independently: a group to one of several widths, or a block as a whole.

    options: the first prunes nothing; each further one removes more.
    within: the choice that, in any state but its first, removes this one as a whole; empty if none does.
    """

    name: str
    options: tuple[Option, ...]
    within: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """What is limited: milliseconds on a target, or bytes.

    savings: {choice: what each of its options saves}.
    layers: {layer: what it costs}, in any unit: how a saving spreads over the layers of an option.
    """

    savings: Mapping[str, Sequence[float]]
    layers: Mapping[str, float]

    def by_layer(self, choice: Choice, option: int) -> dict[str, float]:
        """What an option saves in each layer."""
        spread = {name: self.layers.get(name, 0.0) * share for name, share in choice.options[option].shares.items()}
        total = sum(spread.values())
        saved = self.savings[choice.name][option]
        return {name: saved * part / total for name, part in spread.items()} if total else {}


@dataclass(frozen=True)
class Programme:
    """The choices, and what is limited.

    Two options that both narrow a layer save less together than apart: a layer that lost p of its inputs and q of its
    outputs lost p + q - p q.
    """

    choices: tuple[Choice, ...]
    resources: tuple[Resource, ...]
    _overlaps: dict[tuple[int, int, int, int], tuple[float, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_overlaps", dict(self._all_overlaps()))

    def saved(self, taken: Mapping[str, int]) -> tuple[float, ...]:
        """What the options `taken`, {choice: option}, save of each resource; choices that are missing stay whole."""
        counted = self.counted(taken)
        return tuple(
            sum(one.savings[name][taken[name]] * share for name, share in shares.items())
            for one, shares in zip(self.resources, counted, strict=True)
        )

    def counted(self, taken: Mapping[str, int]) -> list[dict[str, float]]:
        """For each resource {choice: share of its option's saving that counts beside the other options `taken`}.

        What two options would both save is taken from each of them by half.
        """
        states = [taken.get(choice.name, _WHOLE) for choice in self.choices]
        pruned = [choice.name for choice, state in zip(self.choices, states, strict=True) if state]
        counted = [dict.fromkeys(pruned, 1.0) for _ in self.resources]
        for (i, a, j, b), overlap in self._overlaps.items():
            if states[i] == a and states[j] == b:
                for resource, shares, twice in zip(self.resources, counted, overlap, strict=True):
                    for name, state in ((self.choices[i].name, a), (self.choices[j].name, b)):
                        shares[name] -= twice / 2 / (resource.savings[name][state] or 1.0)
        return counted

    def loss(self, taken: Mapping[str, int]) -> float:
        """The loss of the options `taken`."""
        return sum(choice.options[taken.get(choice.name, _WHOLE)].loss for choice in self.choices)

    def smallest(self) -> dict[str, int]:
        """The options that save most, each as a share of what all choices save of a resource; those within a block that
        is dropped stay whole."""
        most = [sum(max(map(abs, saved)) for saved in one.savings.values()) or 1.0 for one in self.resources]
        taken = {}
        for choice in self.choices:
            savings = zip(*(one.savings[choice.name] for one in self.resources), strict=True)
            shares = [sum(saved / whole for saved, whole in zip(each, most, strict=True)) for each in savings]
            taken[choice.name] = max(range(len(shares)), key=shares.__getitem__)
        within = {choice.name: choice.within for choice in self.choices}
        return {name: option for name, option in taken.items() if option and not taken.get(within[name])}

    def least_loss(self, needed: Sequence[float]) -> dict[str, int] | None:
        """The options of least loss that save at least `needed` of each resource; None if none do.

        Returns {choice: option} of the choices that don't stay whole. Solved by HiGHS as a mixed-integer linear
        programme: a binary for each option but the first, and for each overlap a variable that is 1 where both of its
        options are taken.
        """
        binaries = [(i, a) for i, choice in enumerate(self.choices) for a in range(1, len(choice.options))]
        column = {key: at for at, key in enumerate(binaries)}
        rows: list[dict[int, float]] = []
        lower: list[float] = []
        upper: list[float] = []

        def require(row: dict[int, float], low: float, high: float) -> None:
            rows.append(row)
            lower.append(low)
            upper.append(high)

        index = {choice.name: i for i, choice in enumerate(self.choices)}
        for i, choice in enumerate(self.choices):
            row = {column[i, a]: 1.0 for a in range(1, len(choice.options))}
            if choice.within in index:
                j = index[choice.within]
                row |= {column[j, b]: 1.0 for b in range(1, len(self.choices[j].options))}
            if len(row) > 1:
                require(row, -np.inf, 1.0)
        overlaps = [
            (key, parts) for key, parts in self._overlaps.items() if not self._excluded(self.choices, key[0], key[2])
        ]
        for at, ((i, a, j, b), _) in enumerate(overlaps, len(binaries)):
            require({column[i, a]: 1.0, column[j, b]: 1.0, at: -1.0}, -np.inf, 1.0)
        for r, (resource, need) in enumerate(zip(self.resources, needed, strict=True)):
            row = {column[i, a]: resource.savings[self.choices[i].name][a] for i, a in binaries}
            row |= {at: -parts[r] for at, (_, parts) in enumerate(overlaps, len(binaries))}
            require(row, need, np.inf)
        costs = [self.choices[i].options[a].loss for i, a in binaries] + [0.0] * len(overlaps)
        chosen = _solve(np.asarray(costs), rows, lower, upper, integers=len(binaries))
        if chosen is None:
            return None
        return {self.choices[i].name: a for at, (i, a) in enumerate(binaries) if chosen[at] > 0.5}

    @staticmethod
    def _excluded(choices: Sequence[Choice], i: int, j: int) -> bool:
        """Whether one of two choices lies within the other."""
        return choices[i].within == choices[j].name or choices[j].within == choices[i].name

    def _all_overlaps(self) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
        """((choice, option, choice, option), what both save of each resource) where that is more than nothing."""
        by_layer: dict[str, list[int]] = {}
        for i, choice in enumerate(self.choices):
            for layer in choice.options[-1].shares:
                by_layer.setdefault(layer, []).append(i)
        pairs = {(i, j) for sharing in by_layer.values() for i in sharing for j in sharing if i < j}
        found = []
        for i, j in sorted(pairs):
            for a in range(1, len(self.choices[i].options)):
                for b in range(1, len(self.choices[j].options)):
                    parts = tuple(self._overlap(resource, i, a, j, b) for resource in self.resources)
                    if any(parts):
                        found.append(((i, a, j, b), parts))
        return found

    def _overlap(self, resource: Resource, i: int, a: int, j: int, b: int) -> float:
        one, other = self.choices[i], self.choices[j]
        shared = one.options[a].shares.keys() & other.options[b].shares.keys()
        first, second = resource.by_layer(one, a), resource.by_layer(other, b)
        twice = sum(first.get(name, 0.0) * other.options[b].shares[name] for name in shared)
        twice += sum(second.get(name, 0.0) * one.options[a].shares[name] for name in shared)
        least = min(resource.savings[one.name][a], resource.savings[other.name][b])
        return max(0.0, min(twice / 2, least))


def _solve(
    costs: NDArray[np.float64],
    rows: Sequence[Mapping[int, float]],
    lower: Sequence[float],
    upper: Sequence[float],
    *,
    integers: int,
) -> NDArray[np.float64] | None:
    """The x of least costs @ x, the first `integers` of it 0 or 1, the others between; None if there is none."""
    if not len(costs):
        return np.zeros(0) if all(low <= 0 for low in lower) else None
    entries = [(value, at, col) for at, row in enumerate(rows) for col, value in row.items()]
    values, at_row, at_col = (np.asarray(part) for part in zip(*entries, strict=True))
    matrix = coo_array((values.astype(float), (at_row, at_col)), shape=(len(rows), len(costs))).tocsr()
    integrality = np.zeros(len(costs))
    integrality[:integers] = 1
    with native_output_dropped():  # HiGHS prints some lines whatever its options say
        solution = milp(
            costs,
            constraints=LinearConstraint(matrix, lower, upper),
            bounds=Bounds(0, 1),
            integrality=integrality,
            options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
        )
    x: NDArray[np.float64] | None = solution.x
    return x
