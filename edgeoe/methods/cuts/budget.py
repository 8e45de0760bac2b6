"""A cut to a budget: channels are narrowed and blocks dropped at once, those that lose least."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from time import perf_counter

from torch import nn

from edgeoe.methods import Bench
from edgeoe.methods.cuts.losses import Reference, measure_losses, thinned
from edgeoe.methods.cuts.parts import Parts, parts_of
from edgeoe.methods.cuts.search import Search
from edgeoe.methods.meter import Meter
from edgeoe.models.repair import repair
from edgeoe.models.structure import read_structure
from edgeoe.pruning.programme import Programme, Resource
from edgeoe.pruning.prune import Pruned, count_params
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
        table_seconds = seconds.lap()
        on_device = copy.deepcopy(teacher).to(bench.device)
        rows = bench.rows()
        losses = measure_losses(on_device, parts, rows, progress=bench.progress)
        loss_seconds = seconds.lap()
        search = Search(
            programme=Programme(parts.choices(losses.options), stock.resources),
            meter=meter,
            student_of=lambda taken: parts.student(taken, orders=losses.orders),
            teacher=stock.costs,
            totals=stock.totals,
            resources=stock.drawn,
        )
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


@dataclass(frozen=True, slots=True)
class Stock:
    """What the teacher takes of what is limited.

    costs: for each limit.
    resources: what the choices save of each: milliseconds on each target, and parameters.
    totals: what the teacher takes of the resource of each limit.
    drawn: the resource, by index, that each limit draws on.
    """

    costs: tuple[float, ...]
    resources: tuple[Resource, ...]
    totals: tuple[float, ...]
    drawn: tuple[int, ...]

    @classmethod
    def measure(cls, teacher: nn.Module, parts: Parts, meter: Meter) -> Stock:
        """Measure the teacher, and what each part of it costs."""
        measured = meter.costs(teacher, final=True)
        tables = meter.latencies(parts.variants())
        resources = {target: parts.latency(table) for target, table in tables.items()} | {"": parts.parameters()}
        whole = {target: table[TEACHER] for target, table in tables.items()} | {"": float(count_params(teacher))}
        keys = [limit.target if meter.follows_latency(limit) else "" for limit in meter.limits]
        return cls(
            costs=tuple(whole[key] if cost is None else cost for key, cost in zip(keys, measured, strict=True)),
            resources=tuple(resources.values()),
            totals=tuple(whole[key] for key in keys),
            drawn=tuple([*resources].index(key) for key in keys),
        )


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._since = perf_counter()

    def lap(self) -> float:
        before, self._since = self._since, perf_counter()
        return self._since - before
