"""A cut to a budget: channels are narrowed and blocks dropped at once, those that lose least."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from torch import Tensor, nn

from edgeoe.codec import from_json, to_json
from edgeoe.methods import Bench
from edgeoe.methods.cuts.losses import Losses, Reference, measure_losses, thinned
from edgeoe.methods.cuts.parts import Parts, Taken, parts_of
from edgeoe.methods.cuts.reach import explained
from edgeoe.methods.cuts.search import Search
from edgeoe.methods.cuts.stock import Stock
from edgeoe.methods.meter import Meter
from edgeoe.models.repair import repair
from edgeoe.models.structure import Structure, read_structure
from edgeoe.pruning.choices import is_in
from edgeoe.pruning.programme import Programme
from edgeoe.pruning.prune import Pruned
from edgeoe.records.budget import BudgetSearch
from edgeoe.run.saved_work import SavedWork, State
from edgeoe.settings import CompressSettings

__all__ = ["BudgetCut"]

_STATE = "cut", "budget"  # name and key of the plan as saved work
_REPAIRED = 500  # images that the student is repaired with before it is trained


@dataclass(frozen=True, slots=True)
class _Plan:
    """The student, in a form that every process can make it from.

    orders: {group: units in the order in which they are pruned}.
    weights: of the repaired student.
    search: how it was found.
    """

    taken: Taken
    orders: dict[str, tuple[int, ...]]
    weights: dict[str, Tensor]
    search: BudgetSearch


class BudgetCut:
    """Prunes what loses least among the cuts that meet the limits of a meter.

    Which units may be pruned is said by the method, whose recovery follows.
    """

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def prune(self, teacher: nn.Module, bench: Bench, meter: Meter) -> tuple[Pruned, BudgetSearch]:
        """The student before its recovery, and how it was found.

        Raises OutOfReachError if none meets the limits.
        """
        structure = read_structure(teacher, bench.shape)
        parts = parts_of(
            teacher,
            structure,
            self.settings,
            shape=bench.shape,
            channel_multiple=bench.channel_multiple,
            progress=bench.progress,
        )
        plan = bench.once(lambda: self._saved_plan(bench.work) or self._plan(parts, structure, bench, meter))
        pruned = parts.student(plan.taken, orders=plan.orders)
        pruned.model.load_state_dict(plan.weights)
        return pruned, plan.search

    def _saved_plan(self, work: SavedWork) -> _Plan | None:
        state = work.take(*_STATE)
        if state is None:
            return None
        facts, weights = state.facts, dict(state.tensors)
        orders = {name: tuple(order) for name, order in facts["orders"].items()}
        return _Plan(facts["taken"], orders, weights, from_json(BudgetSearch, facts["search"]))

    def _plan(self, parts: Parts, structure: Structure, bench: Bench, meter: Meter) -> _Plan:
        seconds = Stopwatch()
        stock = Stock.measure(parts.teacher, parts, meter)
        losses = Losses()
        search = self._search(parts, stock, meter, losses)
        with explained(parts, stock, meter, self.settings):
            search.require_reach()
        table_seconds = seconds.lap()
        teacher = copy.deepcopy(parts.teacher).to(bench.device)
        rows = bench.rows()
        if not search.is_met:
            losses = measure_losses(teacher, parts, rows, work=bench.work, progress=bench.progress)
            search = self._search(parts, stock, meter, losses)
        loss_seconds = seconds.lap()
        with explained(parts, stock, meter, self.settings):
            taken, costs = search.run()
        pruned = search.student_of(taken)
        pruned.model.to(bench.device)
        structures = structure, read_structure(pruned.model, bench.shape)
        repairing = thinned(rows, _REPAIRED)
        repair(pruned, teacher, structures, repairing, progress=bench.progress)
        record = BudgetSearch(
            limits=meter.limits,
            teacher=tuple(limit.cost(cost) for limit, cost in zip(meter.limits, stock.costs, strict=True)),
            rounds=tuple(search.rounds),
            student=tuple(limit.cost(cost) for limit, cost in zip(meter.limits, costs, strict=True)),
            loss=Reference(teacher, structure, repairing).change(pruned.model),
            table_seconds=table_seconds,
            loss_seconds=loss_seconds,
            search_seconds=seconds.lap(),
            kept_fp32={variant: _outside(pruned.dropped, layers) for variant, layers in meter.kept_fp32.items()},
        )
        weights = pruned.model.to("cpu").state_dict()
        name, key = _STATE
        facts = {"taken": dict(taken), "orders": losses.orders, "search": to_json(record)}
        bench.work.save(name, State(key, facts, weights))
        return _Plan(taken, losses.orders, weights, record)

    def _search(self, parts: Parts, stock: Stock, meter: Meter, losses: Losses) -> Search:
        return Search(
            programme=Programme(parts.choices(losses.options), stock.resources),
            meter=meter,
            student_of=lambda taken: parts.student(taken, orders=losses.orders),
            teacher=stock.costs,
            totals=stock.totals,
            resources=stock.drawn,
        )


def _outside(blocks: Sequence[str], layers: Sequence[str]) -> tuple[str, ...]:
    """Those of `layers` that are in none of `blocks`."""
    return tuple(layer for layer in layers if not any(is_in(layer, block) for block in blocks))


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._since = perf_counter()

    def lap(self) -> float:
        before, self._since = self._since, perf_counter()
        return self._since - before
