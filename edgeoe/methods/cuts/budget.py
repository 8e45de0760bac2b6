"""A cut to a budget: channels are narrowed and blocks dropped at once, those that lose least."""

from __future__ import annotations

import copy
from time import perf_counter

import torch
from torch import nn

from edgeoe.errors import PruningError
from edgeoe.methods import Bench
from edgeoe.methods.cuts.channels import narrowed_groups
from edgeoe.methods.cuts.losses import Losses, Reference, measure_losses, thinned
from edgeoe.methods.cuts.parts import Parts, Taken
from edgeoe.methods.cuts.search import Search
from edgeoe.methods.meter import TEACHER, Meter
from edgeoe.models.reconstruction import Rows
from edgeoe.models.repair import kept_outputs, places_to_repair, repair_layer
from edgeoe.models.structure import Structure, read_structure
from edgeoe.progress import Progress, silent
from edgeoe.pruning.programme import Programme
from edgeoe.pruning.prune import Pruned, count_params
from edgeoe.records.budget import BudgetSearch, SearchRound
from edgeoe.settings import CompressSettings

__all__ = ["BudgetCut"]

_MOST_WIDTHS = 8  # of a group, besides its own
_REPAIRED = 500  # images that the student is repaired with before it is trained


class BudgetCut:
    """Prunes what loses least among the cuts that meet the limits of a meter.

    narrows, drops: whether channels, and whether blocks, may be pruned.
    spares_features: whether what the head reads stays as it is.
    """

    def __init__(self, settings: CompressSettings, *, narrows: bool = True, drops: bool = True, spares_features: bool) -> None:
        self.settings = settings
        self.narrows, self.drops, self.spares_features = narrows, drops, spares_features

    def prune(self, teacher: nn.Module, bench: Bench, meter: Meter) -> tuple[Pruned, BudgetSearch]:
        """The student before its recovery, and how it was found. Raises PruningError if none meets the limits."""
        started = perf_counter()
        structure = read_structure(teacher, bench.shape)
        parts = self._parts(teacher, structure, bench)
        cost = meter.costs(teacher)
        tables = meter.latencies(parts.variants()) if any(map(meter.follows_latency, meter.limits)) else {}
        resources = {target: parts.latency(table) for target, table in tables.items()}
        resources[""] = parts.parameters()
        totals = {target: table[TEACHER] for target, table in tables.items()} | {"": float(count_params(teacher))}
        table_seconds = perf_counter() - started
        keys = [limit.target if meter.follows_latency(limit) else "" for limit in meter.limits]
        if cost is None:
            cost = tuple(totals[key] for key in keys)
        started = perf_counter()
        device_teacher = copy.deepcopy(teacher).to(bench.device)
        rows = bench.rows()
        losses = measure_losses(device_teacher, parts, rows, progress=bench.progress)
        loss_seconds = perf_counter() - started
        started = perf_counter()
        order = [*resources]
        search = Search(
            programme=Programme(parts.choices(losses.options), tuple(resources.values())),
            meter=meter,
            student_of=lambda taken: parts.student(taken, orders=losses.orders),
            teacher=cost,
            totals=[totals[key] for key in keys],
            resources=[order.index(key) for key in keys],
        )
        taken, costs = search.run()
        pruned = search.student_of(taken)
        reference = Reference(device_teacher, structure, thinned(rows, 128))
        before = reference.change(pruned.model.to(bench.device))
        _repair(pruned, device_teacher, structure, thinned(rows, _REPAIRED), shape=bench.shape, progress=bench.progress)
        after = reference.change(pruned.model)
        pruned.model.to("cpu").eval()
        print("change", before, after, "additive", search.programme.loss(taken))
        return pruned, BudgetSearch(
            limits=meter.limits,
            teacher=tuple(limit.cost(one) for limit, one in zip(meter.limits, cost, strict=True)),
            rounds=tuple(search.rounds),
            student=tuple(limit.cost(one) for limit, one in zip(meter.limits, costs, strict=True)),
            measured=search.rounds[-1].measured is not None,
            loss=after,
            table_seconds=table_seconds,
            loss_seconds=loss_seconds,
            search_seconds=perf_counter() - started,
        )

    def _parts(self, teacher: nn.Module, structure: Structure, bench: Bench) -> Parts:
        groups = narrowed_groups(teacher, bench, self.settings, protect=structure.head if self.spares_features else None)
        return Parts(
            teacher,
            bench.shape,
            groups if self.narrows else (),
            structure.blocks if self.drops else (),
            multiple=self.settings.channel_multiple or bench.channel_multiple,
            most_widths=_MOST_WIDTHS,
        )


@torch.no_grad()
def _repair(
    pruned: Pruned,
    teacher: nn.Module,
    structure: Structure,
    rows: Rows,
    *,
    shape: tuple[int, int, int],
    progress: Progress = silent,
) -> None:
    """Refit the layers of the student, in place, one after the other."""
    student = pruned.model
    shorter = read_structure(student, shape)
    changed = {name for group in pruned.groups if group.name in pruned.removed for name in group.consumers}
    places = places_to_repair(structure, shorter, dropped=pruned.dropped, changed=changed)
    with progress("Repairing layers", len(places)) as advance:
        for place in places:
            kept = kept_outputs(teacher, pruned, place.layer).to(rows[0][0].device)
            repair_layer(student, teacher, place, kept=kept, norm=shorter.norms.get(place.layer), rows=rows)
            advance()
