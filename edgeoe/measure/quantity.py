"""A quantity that a budget may limit: the record that measuring, judging and reporting read."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgeoe.registry import QUANTITIES

if TYPE_CHECKING:
    from edgeoe.records.measurement import Estimate, Measurement
    from edgeoe.targets.profile import Target

__all__ = ["Probe", "Quantity", "limited_quantities", "needs_teacher", "probed_quantity", "quantity"]

Sense = Literal["at most", "at least"]
Figure = Callable[[int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Measures a quantity during the timed calls of each process, from its parent process.

    title: name of the figure in reports.
    unit: unit of the figure.
    open: target -> context around the timed calls. It yields a function that is called after the context is left:
        number of calls -> figure of one call, more than 0. If the context or the function raises an EdgeoeError or an
        OSError, the quantity is unknown for that reason.
    """

    title: str
    unit: str
    open: Callable[[Target], AbstractContextManager[Figure]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A quantity that [budget] of a profile may limit, under the name of its row in the table QUANTITIES.

    sense: whether a limit is a maximum ("at most") or a minimum ("at least").
    bounds: type of a limit, with its bounds.
    estimate: measurement -> figure, None if it is unknown.
    unknown: measurement -> reason why the figure is unknown.
    more: what there must be more of for a narrower interval.
    noisy: noise on the machine makes it inconclusive.
    needs_teacher: its figure needs the teacher's predictions on the test images.
    follows: what a cut lowers to meet its limit; empty if a cut can't aim at it.
    probe: measures it, unless `measure/speed.py` does anyway.
    """

    sense: Sense
    bounds: Any
    estimate: Callable[[Measurement], Estimate | None]
    unknown: Callable[[Measurement], str]
    more: Literal["test images", "processes"]
    noisy: bool = False
    needs_teacher: bool = False
    follows: Literal["latency", "parameters", ""] = ""
    probe: Probe | None = None


def probed_quantity(name: str, *, sense: Sense, bounds: Any, probe: Probe, noisy: bool = True) -> Quantity:
    """The quantity `name` that `probe` measures; see `Quantity`."""

    def estimate(m: Measurement) -> Estimate | None:
        return m.speed.probed.get(name) if m.speed else None

    def unknown(m: Measurement) -> str:
        never = f"it was not measured: {name} was not in the [budget] that it was measured with"
        return m.speed.not_probed.get(name, never) if m.speed else m.not_measured

    return Quantity(
        sense=sense, bounds=bounds, estimate=estimate, unknown=unknown, more="processes", noisy=noisy, probe=probe
    )


def quantity(name: str) -> Quantity:
    """The quantity of that name. Raises ConfigError for an unknown one."""
    record: Quantity = QUANTITIES.load(name)
    return record


def limited_quantities(budget: Collection[str]) -> dict[str, Quantity]:
    """The quantities that `budget` limits, by name and in the order of the table.

    Raises ConfigError for an unknown one.
    """
    order = {name: index for index, name in enumerate(QUANTITIES)}
    return {name: quantity(name) for name in sorted(budget, key=lambda name: order.get(name, len(order)))}


def needs_teacher(budget: Collection[str]) -> bool:
    """Whether a limit of `budget` needs the teacher's predictions."""
    return any(record.needs_teacher for record in limited_quantities(budget).values())
