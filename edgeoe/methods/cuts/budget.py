"""A cut to a budget: channels are narrowed and blocks dropped at once, those that lose least."""

from __future__ import annotations

import copy
from time import perf_counter

from torch import nn

from edgeoe.methods import Bench
    def _search(self, parts: Parts, stock: Stock, meter: Meter, losses: Losses | None = None) -> Search:
        """A search; without `losses` for what can be saved alone."""
        return Search(
            programme=Programme(parts.choices(losses.options if losses else None), stock.resources),
            meter=meter,
            student_of=lambda taken: parts.student(taken, orders=losses.orders if losses else None),
            teacher=stock.costs,
            totals=stock.totals,
            resources=stock.drawn,
        )

from edgeoe.records.budget import BudgetSearch
from edgeoe.records.latency_table import TEACHER
from edgeoe.settings import CompressSettings

__all__ = ["BudgetCut"]

_REPAIRED = 500  # images that the student is repaired with before it is trained


class BudgetCut:
    """Prunes what loses least among the cuts that meet the limits of a meter.

    Which units may be pruned is said by the method, whose recovery follows.
    """

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def prune(self, teacher: nn.Module, bench: Bench, meter: Meter) -> tuple[Pruned, BudgetSearch]:
        """The student before its recovery, and how it was found. Raises PruningError if none meets the limits."""
        seconds = Stopwatch()
        structure = read_structure(teacher, bench.shape)
        parts = parts_of(
            teacher,
            structure,
            self.settings,
            shape=bench.shape,
            channel_multiple=bench.channel_multiple,
            progress=bench.progress,
        )
        stock = Stock.measure(teacher, parts, meter)
        with explained(parts, stock, meter, self.settings):
            self._search(parts, stock, meter).require_reach()
        table_seconds = seconds.lap()
        on_device = copy.deepcopy(teacher).to(bench.device)
        rows = bench.rows()
        losses = measure_losses(on_device, parts, rows, progress=bench.progress)
        loss_seconds = seconds.lap()
        search = self._search(parts, stock, meter, losses)
        with explained(parts, stock, meter, self.settings):
            taken, costs = search.run()
        pruned = search.student_of(taken)
        pruned.model.to(bench.device)
        structures = structure, read_structure(pruned.model, bench.shape)
        repair(pruned, on_device, structures, thinned(rows, _REPAIRED), progress=bench.progress)
        change = Reference(on_device, structure, thinned(rows, _REPAIRED)).change(pruned.model)
        pruned.model.to("cpu").eval()
        return pruned, BudgetSearch(
            limits=meter.limits,
            teacher=tuple(limit.cost(cost) for limit, cost in zip(meter.limits, stock.costs, strict=True)),
            rounds=tuple(search.rounds),
            student=tuple(limit.cost(cost) for limit, cost in zip(meter.limits, costs, strict=True)),
            loss=change,
            table_seconds=table_seconds,
            loss_seconds=loss_seconds,
            search_seconds=seconds.lap(),
        )

<<<<<<< HEAD
=======
    def _search(self, parts: Parts, stock: Stock, meter: Meter, losses: Losses | None = None) -> Search:
        """A search; without `losses` for what can be saved alone."""
        return Search(
            programme=Programme(parts.choices(losses.options if losses else None), stock.resources),
            meter=meter,
            student_of=lambda taken: parts.student(taken, orders=losses.orders if losses else None),
            teacher=stock.costs,
            totals=stock.totals,
            resources=stock.drawn,
        )

    def _parts(self, teacher: nn.Module, structure: Structure, bench: Bench) -> Parts:
        head = structure.head if self._method.spares_features else None
        groups = narrowed_groups(teacher, bench, self.settings, protect=head)
        return Parts(
            teacher,
            bench.shape,
            groups if "channels" in self._method.to_budget else (),
            structure.blocks if "blocks" in self._method.to_budget else (),
            multiple=self.settings.channel_multiple or bench.channel_multiple,
            most_widths=_MOST_WIDTHS,
        )

>>>>>>> f0d2621 (A budget that no student meets is refused before losses are measured, with the table that shows it)

class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._since = perf_counter()

    def lap(self) -> float:
        before, self._since = self._since, perf_counter()
        return self._since - before
