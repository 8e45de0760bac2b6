"""What a budget may limit: a record that judging, measuring and reporting derive from."""

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
    """Measures a quantity beside the timed calls of each process, from the process that starts it.

    title: of its figure, for people.
    unit: of its figure.
    open: for a target, a context that is entered around the timed calls. It yields a function that is called after the
    context is left: number of calls -> figure of one call, more than 0. Where the context or the function raises an
    EdgeoeError or an OSError, the quantity is unknown for that reason.
    """

    title: str
    unit: str
    open: Callable[[Target], AbstractContextManager[Figure]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A quantity that [budget] of a profile may limit, under the name of its row in the table QUANTITIES.

    sense: the side of a limit that passes.
    bounds: the type of a limit, with its bounds.
    estimate: its figure in a measurement, None where it is unknown.
    unknown: why it is unknown in such a measurement.
    more: what narrows its interval.
    noisy: it can't be judged where noise was measured.
    needs_teacher: its figure takes the teacher's predictions on the test images.
    probe: what measures it, for a quantity that `measure/speed.py` does not measure anyway.
    """

    sense: Sense
    bounds: Any
    estimate: Callable[[Measurement], Estimate | None]
    unknown: Callable[[Measurement], str]
    more: Literal["test images", "processes"]
    noisy: bool = False
    needs_teacher: bool = False
    probe: Probe | None = None


def probed_quantity(name: str, *, sense: Sense, bounds: Any, probe: Probe, noisy: bool = True) -> Quantity:
    """The quantity `name` whose figure is what `probe` measured; see `Quantity`."""

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
    order = {name: place for place, name in enumerate(QUANTITIES)}
    return {name: quantity(name) for name in sorted(budget, key=lambda name: order.get(name, len(order)))}


def needs_teacher(budget: Collection[str]) -> bool:
    """Whether a limit of `budget` can be judged only beside the teacher's predictions."""
    return any(one.needs_teacher for one in limited_quantities(budget).values())
