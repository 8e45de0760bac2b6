"""The search for a cut within a budget, against a meter whose costs are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from torch import nn

from edgeoe.errors import OutOfReachError
from edgeoe.methods.cuts.parts import Taken
from edgeoe.methods.cuts.search import Search
from edgeoe.methods.meter import Variants
from edgeoe.pruning.programme import Choice, Option, Programme, Resource
from edgeoe.pruning.prune import Pruned
from edgeoe.records.budget import Limit

WHOLE_MS, WHOLE_PARAMETERS = 10.0, 1000.0


def programme(groups: int = 6, widths: int = 8) -> Programme:
    """Groups of eight widths that save up to a millisecond each, and two blocks; a later group loses more."""
    choices = [
        Choice(f"group {n}", tuple(Option((1 + n) * (at / widths) ** 2, {}) for at in range(widths + 1)))
        for n in range(groups)
    ]
    choices += [Choice(f"block {n}", (Option(0.0, {}), Option(1.5 + n, {}))) for n in range(2)]
    ms = {one.name: [at / (len(one.options) - 1) for at in range(len(one.options))] for one in choices}
    parameters = {name: [50 * saved for saved in savings] for name, savings in ms.items()}
    return Programme(tuple(choices), (Resource(ms, {}), Resource(parameters, {})))


class Student(nn.Module):
    """Stands for a student; what it costs follows from what is taken."""

    def __init__(self, taken: Taken) -> None:
        super().__init__()
        self.taken = dict(taken)


def student_of(taken: Taken) -> Pruned:
    dropped = tuple(name for name in taken if name.startswith("block"))
    return Pruned(Student(taken), {}, (), macs=1, macs_kept=1.0, params_kept=1.0, dropped=dropped)


Costs = tuple[float | None, ...]


@dataclass
class FakeMeter:
    """Costs as `true` says of what is saved, in quick measurements divided by `drift`.

    true: (milliseconds saved by the table, parameters saved) -> costs.
    """

    limits: tuple[Limit, ...]
    programme: Programme
    true: Callable[[float, float], Costs]
    drift: float = 1.0
    quick: list[Taken] = field(default_factory=list)
    final: list[Taken] = field(default_factory=list)
    kept_fp32: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def follows_latency(self, limit: Limit) -> bool:
        return limit.quantity != "size_mb"

    def latencies(self, variants: Variants) -> dict[str, dict[str, float]]:
        raise AssertionError("the table is there")

    def costs(self, model: nn.Module, *, final: bool) -> Costs:
        assert isinstance(model, Student)
        (self.final if final else self.quick).append(model.taken)
        ms, parameters = self.programme.saved(model.taken)
        return tuple(
            None if cost is None else cost if final else cost / self.drift for cost in self.true(ms, parameters)
        )


def latency(ms: float) -> Limit:
    return Limit("board", "p50_ms", ms)


def additive(ms: float, parameters: float) -> Costs:
    return (WHOLE_MS - ms,)


def less_than_additive(ms: float, parameters: float) -> Costs:
    """The more goes, the less of what the table promises is saved: at last 60 % of it."""
    return (WHOLE_MS - ms * (1 - 0.05 * ms),)


def more_than_additive(ms: float, parameters: float) -> Costs:
    return (WHOLE_MS - 1.2 * ms,)


def search_for(
    *limits: Limit,
    true: Callable[[float, float], Costs] = additive,
    drift: float = 1.0,
    teacher: Sequence[float] = (WHOLE_MS,),
    of: Programme | None = None,
) -> tuple[Search, FakeMeter]:
    of = of or programme()
    meter = FakeMeter(limits, of, true, drift)
    resources = [0 if meter.follows_latency(limit) else 1 for limit in limits]
    totals = [(WHOLE_MS, WHOLE_PARAMETERS)[resource] for resource in resources]
    return Search(of, meter, student_of, tuple(teacher), totals, resources), meter


@pytest.mark.parametrize("limit", [9.5, 8.0, 6.0, 5.5])
@pytest.mark.parametrize("true", [additive, less_than_additive, more_than_additive])
@pytest.mark.parametrize("drift", [1.0, 1.04, 0.97])
def test_the_student_is_within_the_limit_and_near_it(
    limit: float, true: Callable[[float, float], Costs], drift: float
) -> None:
    """A step of an eighth of a millisecond is about 2 % of the limit."""
    search, meter = search_for(latency(limit), true=true, drift=drift)
    taken, (cost,) = search.run()
    (measured,) = true(*search.programme.saved(taken))
    assert cost == measured
    assert taken in meter.final, "what is handed back was measured as validate does"
    assert 0.94 * limit < cost <= limit
    assert len(meter.quick) == len(search.rounds) <= 7
    assert len(meter.final) <= 3


@pytest.mark.parametrize("true", [additive, less_than_additive])
def test_nothing_that_loses_less_would_have_met_the_limit(true: Callable[[float, float], Costs]) -> None:
    search, meter = search_for(latency(7.0), true=true)
    taken, _ = search.run()
    loosened = [one for one in meter.quick if search.programme.loss(one) < search.programme.loss(taken)]
    assert all((true(*search.programme.saved(one))[0] or 0) > 7.0 for one in loosened)


def test_a_wrong_table_is_corrected_by_the_first_measurements() -> None:
    """It promises twice what is saved: two students on, the choice is right."""
    search, _ = search_for(latency(8.0), true=lambda ms, _: (WHOLE_MS - ms / 2,))
    search.run()
    first, *_, last = search.rounds
    assert len(search.rounds) <= 3
    assert first.measured[0] is not None
    assert last.measured[0] is not None
    assert first.predicted[0] == pytest.approx(7.9, rel=0.02)
    assert first.measured[0] > 8.0
    assert last.measured[0] == pytest.approx(last.predicted[0], rel=0.02)
    assert last.measured[0] <= 8.0


def test_a_final_measurement_that_is_slower_leads_to_a_smaller_student() -> None:
    search, meter = search_for(latency(7.0), drift=1.05)
    taken, (cost,) = search.run()
    assert 6.6 < cost <= 7.0
    assert search.programme.loss(meter.final[0]) < search.programme.loss(taken)


def coarse() -> Programme:
    """Two blocks, that alone save a millisecond each."""
    blocks = tuple(Choice(f"block {n}", (Option(0.0, {}), Option(1.0 + n, {}))) for n in range(2))
    savings = {one.name: (0.0, 1.0) for one in blocks}
    return Programme(blocks, (Resource(savings, {}), Resource({one.name: (0.0, 50.0) for one in blocks}, {})))


def test_where_steps_are_coarse_the_student_may_be_far_below() -> None:
    search, _ = search_for(latency(9.6), of=coarse())
    taken, (cost,) = search.run()
    assert (taken, cost) == ({"block 0": 1}, 9.0)


def test_a_coarse_student_that_the_final_measurement_finds_too_slow_gives_way_to_the_next() -> None:
    """Quick it takes 9 ms of 9.4, and 9.45 as validate measures: the next smaller one has to do."""
    search, _ = search_for(latency(9.4), of=coarse(), true=lambda ms, _: (1.05 * (WHOLE_MS - ms),), drift=1.05)
    taken, (cost,) = search.run()
    assert taken == {"block 0": 1, "block 1": 1}
    assert cost == pytest.approx(8.4)


def test_a_drift_is_in_the_figures_of_later_rounds() -> None:
    """In the predicted as well as in the measured ones, so that they compare."""
    search, meter = search_for(latency(6.0), true=less_than_additive, drift=1.08)
    search.run()
    assert len(meter.final) > 1
    last, (true,) = search.rounds[-1], less_than_additive(*search.programme.saved(meter.quick[-1]))
    assert last.measured[0] == pytest.approx(true, rel=0.03)
    assert last.measured[0] == pytest.approx(last.predicted[0], rel=0.03)


# Limits


def test_a_teacher_that_meets_the_limits_stays_as_it_is() -> None:
    search, meter = search_for(latency(1.02 * WHOLE_MS))
    assert search.run() == ({}, (WHOLE_MS,))
    assert (meter.quick, meter.final) == ([], []), "it was measured before"
    assert [one.measured for one in search.rounds] == [(WHOLE_MS,)]


def test_no_cut_is_looked_for_where_the_teacher_meets_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are not measured then, so that all are nought and the solver may take any: three blocks of ResNet-18."""
    search, _ = search_for(latency(1.02 * WHOLE_MS))
    monkeypatch.setattr(Programme, "least_loss", lambda *_: {"block 0": 1})
    assert search.run() == ({}, (WHOLE_MS,))


def test_every_limit_is_met_and_one_is_near() -> None:
    def both(ms: float, parameters: float) -> Costs:
        return WHOLE_MS - 0.8 * ms, (WHOLE_PARAMETERS - parameters) / 1000

    for most_ms, most_mb in ((8.0, 0.75), (6.0, 0.9), (9.0, 0.8)):
        limits = latency(most_ms), Limit("board", "size_mb", most_mb)
        search, _ = search_for(*limits, true=both, teacher=(WHOLE_MS, 1.0))
        _, (ms, mb) = search.run()
        assert ms <= most_ms
        assert mb <= most_mb
        assert max(ms / most_ms, mb / most_mb) > 0.94


def test_a_throughput_is_a_least_value() -> None:
    """Costs are seconds per image, rounds are images per second."""
    limit = Limit("board", "throughput_ips", 150.0, "at least")
    search, _ = search_for(limit, true=lambda ms, _: ((WHOLE_MS - ms) / 1000,), teacher=(0.01,))
    _, (seconds,) = search.run()
    assert 151 <= 1 / seconds < 162
    assert search.rounds[0].predicted[0] == pytest.approx(156, rel=0.02)
    (measured,) = search.rounds[-1].measured
    assert measured == pytest.approx(1 / seconds)


def test_a_device_elsewhere_is_met_by_prediction() -> None:
    search, meter = search_for(latency(7.0), true=lambda ms, parameters: (None,))
    taken, (cost,) = search.run()
    assert cost == pytest.approx(WHOLE_MS - search.programme.saved(taken)[0])
    assert 6.5 < cost <= 7.0
    assert all(one.measured == (None,) for one in search.rounds)
    assert len(search.rounds) == 1, "nothing is measured that could correct the table"
    assert taken in meter.final


def test_a_device_elsewhere_beside_one_that_is_here() -> None:
    limits = latency(7.0), Limit("elsewhere", "p50_ms", 6.0)
    search, _ = search_for(
        *limits,
        true=lambda ms, parameters: (WHOLE_MS - ms / 2, None),
        teacher=(WHOLE_MS, WHOLE_MS),
    )
    taken, (here, elsewhere) = search.run()
    assert here <= 7.0
    assert elsewhere <= 6.0
    assert elsewhere == pytest.approx(WHOLE_MS - search.programme.saved(taken)[0])
    assert {type(one.measured[0]) for one in search.rounds} == {float}
    assert {one.measured[1] for one in search.rounds} == {None}


# Out of reach


def test_the_refusal_names_the_limit_the_nearest_student_and_the_teacher() -> None:
    search, _ = search_for(latency(1.5))
    with pytest.raises(OutOfReachError) as refused:
        search.run()
    assert str(refused.value) == (
        "no student of this teacher can meet p50_ms at most 1.5 on board "
        "(the nearest student reaches 2, the teacher 10)."
    )


def test_only_limits_that_are_missed_are_named() -> None:
    limits = latency(9.0), Limit("board", "size_mb", 0.1)
    search, _ = search_for(
        *limits, true=lambda ms, parameters: (WHOLE_MS - ms, (1000 - parameters) / 1000), teacher=(WHOLE_MS, 1.0)
    )
    with pytest.raises(OutOfReachError, match=r"size_mb at most 0\.1 on board \(the nearest student reaches 0\.6"):
        search.run()


def test_a_limit_that_the_table_thinks_out_of_reach_may_be_met() -> None:
    """The smallest student is measured, and saves more than the table says."""
    search, _ = search_for(latency(1.5), true=more_than_additive)
    _, (cost,) = search.run()
    assert cost <= 1.5


def test_a_cut_that_saves_nothing_at_all_is_refused() -> None:
    search, meter = search_for(latency(9.0), true=lambda ms, parameters: (WHOLE_MS,))
    with pytest.raises(OutOfReachError, match="the nearest student reaches 10, the teacher 10"):
        search.run()
    assert len(meter.quick) <= 3


def test_reach_is_measured_only_where_the_table_is_not_clear() -> None:
    search, meter = search_for(latency(8.0))
    search.require_reach()
    assert meter.quick == []
    search, meter = search_for(latency(2.5))
    search.require_reach()
    assert len(meter.quick) == 1
    search, _ = search_for(latency(1.5))
    with pytest.raises(OutOfReachError, match="the nearest student reaches 2"):
        search.require_reach()


def test_the_same_costs_find_the_same_student() -> None:
    students = [search_for(latency(6.5), true=less_than_additive)[0].run() for _ in range(2)]
    assert students[0] == students[1]
