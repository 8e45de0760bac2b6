"""A budget that no student meets is refused before losses are measured, with the table that shows why."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from meters import MacsMeter
from torch import nn

from edgeoe.errors import OutOfReachError
from edgeoe.methods.cuts import budget
from edgeoe.methods.cuts.budget import BudgetCut
from edgeoe.records.budget import Limit
from edgeoe.settings import CompressSettings

Network = Callable[[str], nn.Module]


def settings(**changes: Any) -> CompressSettings:
    given = {"teacher": "timm:any", "samples": "few", "oe": False, "latency_ms": 1.0, **changes}
    return CompressSettings(**given)


@pytest.fixture
def no_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "measure_losses", lambda *_, **__: pytest.fail("losses are measured"))


def refused(
    teacher: nn.Module, bench: Any, *limits: Limit, asked: CompressSettings | None = None
) -> tuple[OutOfReachError, MacsMeter]:
    meter = MacsMeter(limits)
    with pytest.raises(OutOfReachError) as caught:
        BudgetCut(asked or settings()).prune(teacher, bench, meter)
    return caught.value, meter


@pytest.mark.usefixtures("no_losses")
def test_the_limit_the_nearest_student_and_the_table_are_named_before_losses_are_measured(
    network: Network, still: Callable[..., Any]
) -> None:
    teacher = network("stages")
    limit = Limit("board", "p50_ms", 1e-4)
    reason, meter = refused(teacher, still(), limit)
    whole = MacsMeter((limit,)).costs(teacher, final=True)[0]
    assert str(reason).startswith("no student of this teacher can meet p50_ms at most 0.0001 on board (the nearest ")
    assert f"the teacher {whole:.4g})" in str(reason)
    assert meter.asked == {"final costs": 1, "latencies": 1, "costs": 1}, "the smallest student alone is measured"
    header, *rows = reason.table
    assert header == ("part", "number", "narrowest", "saved each, ms on board")
    assert {"dropped"} < {row[2] for row in rows}
    assert any(row[0] == "early.* (2)" and row[1] == "2" for row in rows), rows
    assert all(len(row) == len(header) for row in rows)
    totals = [int(row[1]) * float(row[3]) for row in rows]
    assert totals == sorted(totals, reverse=True), "what saves most comes first"


@pytest.mark.usefixtures("no_losses")
def test_every_limit_that_is_missed_is_named_and_a_size_is_saved_in_parameters(
    network: Network, still: Callable[..., Any]
) -> None:
    limits = Limit("board", "p50_ms", 1e-4), Limit("board", "size_mb", 1e-6), Limit("other", "p50_ms", 1e9)
    reason, _ = refused(network("stages"), still(), *limits)
    assert "p50_ms at most 0.0001 on board (" in str(reason)
    assert " and size_mb at most 1e-06 on board (" in str(reason)
    assert "on other (" not in str(reason)
    assert reason.table[0][3:] == ("saved each, ms on board", "saved each, parameters", "saved each, ms on other")


@pytest.mark.usefixtures("no_losses")
@pytest.mark.parametrize(
    ("changes", "multiple", "precision", "advice", "not_advised"),
    [
        ({}, 8, "fp32", ['precision = "int8" in the profile of board', "--channel-multiple 4"], ["--exclude"]),
        ({}, 1, "int8", ["--method kd"], ["precision", "--channel-multiple", "--include"]),
        ({"method": "kd"}, 1, "int8", [], ["--method"]),
        ({"exclude": ("late*",)}, 1, "int8", ["a narrower --exclude"], []),
        ({"method": "practise"}, 8, "int8", ["--method mir, which narrows channels, too"], ["--channel-multiple"]),
    ],
)
def test_the_advice_is_what_applies(
    network: Network,
    still: Callable[..., Any],
    changes: dict[str, Any],
    multiple: int,
    precision: str,
    advice: list[str],
    not_advised: list[str],
) -> None:
    limit = Limit("board", "p50_ms", 1e-4, precision=precision)
    reason, _ = refused(network("stages"), still(channel_multiple=multiple), limit, asked=settings(**changes))
    said = str(reason).partition("What may help: ")[2]
    assert [words for words in advice if words not in said] == [], said
    assert [words for words in not_advised if words in said] == [], said


@pytest.mark.usefixtures("no_losses")
@pytest.mark.parametrize("layers", [(), ("head",)])
def test_layers_in_fp32_are_a_way_out(network: Network, still: Callable[..., Any], layers: tuple[str, ...]) -> None:
    meter = MacsMeter((Limit("board", "p50_ms", 1e-4, precision="int8"),), kept_fp32={"int8-cpu": layers})
    with pytest.raises(OutOfReachError) as caught:
        BudgetCut(settings()).prune(network("stages"), still(), meter)
    assert ("a larger --max-drop" in str(caught.value)) == bool(layers)


def test_a_limit_within_reach_is_met(network: Network, still: Callable[..., Any]) -> None:
    teacher = network("stages")
    whole = MacsMeter((Limit("board", "p50_ms", 1.0),)).costs(teacher, final=True)[0] or 0.0
    meter = MacsMeter((Limit("board", "p50_ms", whole / 2),))
    pruned, search = BudgetCut(settings()).prune(teacher, still(), meter)
    assert search.student[0] <= whole / 2
    assert pruned.macs_kept <= 0.5


@pytest.mark.usefixtures("no_losses")
def test_a_teacher_that_meets_the_limits_stays_whole(network: Network, still: Callable[..., Any]) -> None:
    pruned, search = BudgetCut(settings()).prune(network("stages"), still(), MacsMeter((Limit("a", "p50_ms", 1e6),)))
    assert (pruned.removed, pruned.dropped, pruned.macs_kept) == ({}, (), 1.0)
    assert search.student == search.teacher


def test_the_error_crosses_processes_with_its_table() -> None:
    reason = pickle.loads(pickle.dumps(OutOfReachError("none can", table=[("part",), ("a",)])))  # noqa: S301
    assert (str(reason), reason.table) == ("none can", (("part",), ("a",)))
