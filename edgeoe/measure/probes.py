"""Probes that measure quantities of a budget during the timed calls of each process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import isfinite
from typing import TypeVar

from edgeoe.errors import EdgeoeError, first_line
from edgeoe.measure.quantity import limited_quantities
from edgeoe.targets.profile import Target

__all__ = ["Probes"]

Calls = TypeVar("Calls", bound=Sequence[object])


class Probes:
    """Runs the probes that the budget of `target` needs, and collects their figures, process by process.

    A probe that fails in one process is not used in the next, and its quantity is unknown.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._probes = {name: one.probe for name, one in limited_quantities(target.budget).items() if one.probe}
        self._figures: dict[str, list[float]] = {name: [] for name in self._probes}
        self._failed: dict[str, str] = {}

    def around(self, timed: Callable[[], Calls]) -> Calls:
        """Run `timed` with the probes measuring, and return its calls."""
        figures = {}
        with ExitStack() as stack:
            for name, probe in self._probes.items():
                if name not in self._failed:
                    with self._record_failure(name):
                        figures[name] = stack.enter_context(probe.open(self._target))
            calls = timed()
        for name, figure in figures.items():
            with self._record_failure(name):
                self._figures[name].append(_positive(figure(len(calls))))
        return calls

    def measured(self) -> dict[str, tuple[float, ...]]:
        """Figures by quantity, one per process, of the probes that never failed."""
        return {name: tuple(values) for name, values in self._figures.items() if name not in self._failed}

    def failed(self) -> dict[str, str]:
        """Reasons of failure, by quantity, of the other probes."""
        return dict(self._failed)

    @contextmanager
    def _record_failure(self, name: str) -> Iterator[None]:
        try:
            yield
        except (EdgeoeError, OSError, ValueError) as reason:
            self._failed[name] = f"its probe failed: {first_line(reason)}"


def _positive(value: float) -> float:
    if not (isfinite(value) and value > 0):
        raise ValueError(f"it must read more than 0. Got {value:g}")
    return value
