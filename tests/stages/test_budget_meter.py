"""The budget of compress: its limits, and a meter that measures networks against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from made_up import speed
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import TargetError
from edgeoe.methods.meter import Variants
from edgeoe.records.budget import Limit
from edgeoe.records.latency_table import TEACHER, LatencyTable
from edgeoe.records.result import SpeedSamples
from edgeoe.settings import CompressSettings
from edgeoe.stages import budget
from edgeoe.stages.budget import BudgetMeter, budget_limits, has_budget
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Budget, DeviceFacts, MeasureSettings, Target

PREPROCESS = Preprocess(size=(16, 16), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
Network = Callable[[str], nn.Module]


def target(name: str = "board", /, **limits: float) -> Target:
    """host-cpu under another name, measured in as little time as says anything."""
    quick = MeasureSettings(
        processes=2, warmup_seconds=0.0, warmup_max_seconds=0.0, min_seconds=0.01, min_iterations=10,
        max_variation=1e9, max_foreign_load=1e9,
    )  # fmt: skip
    return replace(load_target("host-cpu"), name=name, measure=quick, budget=Budget(**limits))


def elsewhere(name: str = "far", /, **limits: float) -> Target:
    return replace(target(name, **limits), device=DeviceFacts(cpu="a processor that nobody has"))


def asking(**changes: Any) -> CompressSettings:
    given: dict[str, Any] = {"teacher": "timm:any", "samples": "few", "oe": False, **changes}
    return CompressSettings(**given)


# Whether there is one


@pytest.mark.parametrize(
    ("changes", "limits", "expected"),
    [
        ({}, {}, False),
        ({}, {"p50_ms": 1.0}, True),
        ({}, {"size_mb": 1.0}, True),
        ({}, {"throughput_ips": 1.0}, True),
        ({}, {"peak_memory_mb": 100.0}, True),
        ({}, {"top1": 0.5}, False),
        ({}, {"max_drop": 0.1}, False),
        ({}, {"top1": 0.5, "p99_ms": 1.0}, True),
        ({"keep_macs": 0.5}, {"p50_ms": 1.0}, False),
        ({"keep_params": 0.5}, {"p50_ms": 1.0}, False),
        ({"keep_blocks": 0.5, "method": "practise"}, {"p50_ms": 1.0}, False),
        ({"method": "none"}, {"p50_ms": 1.0}, False),
        ({"method": "practise"}, {"p50_ms": 1.0}, True),
        ({"latency_ms": 1.0}, {}, True),
        ({"speedup": 2.0}, {}, True),
        ({"latency_ms": 1.0}, {"top1": 0.5}, True),
    ],
)
def test_a_budget_is_asked_for_or_in_the_profile_where_no_share_is_kept(
    changes: dict[str, Any], limits: dict[str, float], expected: bool
) -> None:
    assert has_budget(asking(**changes), [target(**limits)]) == expected


def test_one_of_several_profiles_with_a_budget_is_enough() -> None:
    assert has_budget(asking(), [target("one"), target("other", p50_ms=1.0)])
    assert not has_budget(asking(), [])


# Limits


def limits(settings: CompressSettings, *targets: Target) -> list[Limit]:
    return list(budget_limits(settings, targets, lambda _: 6.0))


def test_the_limits_of_a_profile_are_those_that_a_cut_can_aim_at() -> None:
    profile = replace(target(p50_ms=2.0, size_mb=1.5, throughput_ips=100.0, top1=0.5, max_drop=0.1), precision="int8")
    found = {limit.quantity: limit for limit in limits(asking(), profile)}
    assert {name: (limit.limit, limit.sense) for name, limit in found.items()} == {
        "p50_ms": (2.0, "at most"),
        "size_mb": (1.5, "at most"),
        "throughput_ips": (100.0, "at least"),
    }
    assert {(limit.target, limit.precision, limit.origin) for limit in found.values()} == {("board", "int8", "")}


def test_a_latency_holds_on_every_target_instead_of_its_profile() -> None:
    found = limits(asking(latency_ms=3.0), target("one", p50_ms=1.0, size_mb=9.0), target("other"))
    assert [(limit.target, limit.quantity, limit.limit, limit.origin) for limit in found] == [
        ("one", "p50_ms", 3.0, "--latency-ms"),
        ("other", "p50_ms", 3.0, "--latency-ms"),
    ]


def test_a_speedup_is_of_the_teacher_in_fp32() -> None:
    assert [(limit.quantity, limit.limit) for limit in limits(asking(speedup=4.0), target())] == [("p50_ms", 1.5)]


def test_costs_of_a_throughput_are_seconds_per_image() -> None:
    limit = Limit("board", "throughput_ips", 50.0, "at least")
    assert (limit.greatest_cost, limit.cost(100.0)) == (0.02, 0.01)
    assert str(limit) == "throughput_ips at least 50 on board"


# The meter


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick measurements take as few turns as say anything."""
    monkeypatch.setattr(budget, "_SECONDS", 0.0)
    monkeypatch.setattr(budget, "_MIN_TURNS", 2)


def deep(layers: int) -> nn.Module:
    torch.manual_seed(0)
    body = [part for _ in range(layers) for part in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    return nn.Sequential(nn.Conv2d(3, 16, 3), *body, *head).eval().requires_grad_(False)


def test_costs_are_those_of_the_artifact_at_the_end_that_a_verdict_reads(quick: None) -> None:
    teacher, profile = deep(6), target(p50_ms=100.0, size_mb=5.0, throughput_ips=1.0)
    meter = BudgetMeter(teacher, asking(), [profile], PREPROCESS)
    whole, less = meter.costs(teacher, final=True), meter.costs(deep(1), final=True)
    names = [limit.quantity for limit in meter.limits]
    assert {*names} == {"p50_ms", "size_mb", "throughput_ips"}
    assert all(cost is not None and cost > 0 for cost in (*whole, *less))
    costs = dict(zip(names, zip(whole, less, strict=True), strict=True))
    size, smaller = costs["size_mb"]
    assert size is not None
    assert smaller is not None
    assert smaller < size < 0.1
    assert size == pytest.approx(4 * sum(p.numel() for p in teacher.parameters()) / 1e6, rel=0.3)


@pytest.mark.parametrize(
    ("disturbed", "chosen", "times"),
    [((True, False), 1, 2), ((False,), 0, 1), ((True, True, True), 2, 3)],
    ids=["until it is quiet", "once", "the least uncertain"],
)
def test_an_artifact_is_measured_again_while_the_machine_is_noisy(
    disturbed: tuple[bool, ...], chosen: int, times: int, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures of a noisy moment decide about a budget only if there are no better ones."""
    spreads, milliseconds = (0.05, 0.04, 0.02), (3.0, 4.0, 5.0)
    measured = iter(zip(disturbed, milliseconds, spreads, strict=False))
    calls: list[float] = []

    def measure(*_: Any, **__: Any) -> SpeedSamples:
        noisy, ms, spread = next(measured)
        calls.append(ms)
        return speed(ms=ms, spread=spread, disturbed=("others compute",) if noisy else ())

    monkeypatch.setattr(budget, "measure_speed", measure)
    (cost,) = BudgetMeter(deep(1), asking(latency_ms=1.0), [target()], PREPROCESS).costs(deep(1), final=True)
    assert cost == pytest.approx(milliseconds[chosen], rel=0.1)
    assert len(calls) == times


def test_a_quick_cost_is_the_teachers_times_the_ratio_of_their_latencies(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = deep(2), deep(1)
    meter = BudgetMeter(teacher, asking(latency_ms=1.0), [target()], PREPROCESS)
    (whole,) = meter.costs(teacher, final=True)
    compared: list[Any] = []

    def turns(models: Any, *_: Any, **__: Any) -> list[list[float]]:
        compared.append(models)
        return [[1.0, 2.0, 4.0], [0.25, 0.5, 4.0]]

    monkeypatch.setattr(budget, "time_interleaved", turns)
    (cost,) = meter.costs(student, final=False)
    assert compared == [(teacher, student)]
    assert whole is not None
    assert cost == pytest.approx(whole / 4)


def test_the_latencies_of_variants_are_measured_on_each_target_with_a_limit_on_it(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def table(teacher: object, variants: Variants, of: Target, *_: object, **__: object) -> LatencyTable:
        asked.append(of.name)
        return LatencyTable(network="0" * 64, target=of, environment={}, latencies_ms={TEACHER: 2.0})

    monkeypatch.setattr(budget, "measure_table", table)
    targets = [target("fast", p50_ms=1.0, p90_ms=2.0), target("small", size_mb=1.0)]
    teacher = deep(1)
    meter = BudgetMeter(teacher, asking(), targets, PREPROCESS)
    assert meter.latencies({TEACHER: lambda: teacher}) == {"fast": {TEACHER: 2.0}}
    assert asked == ["fast"]
    assert [meter.follows_latency(limit) for limit in meter.limits] == [True, True, False]


def test_a_device_elsewhere_has_no_costs_and_that_is_said(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    teacher = deep(1)
    meter = BudgetMeter(teacher, asking(), [elsewhere(p50_ms=1.0), target(size_mb=1.0)], PREPROCESS)
    assert [limit.target for limit in meter.limits] == ["far", "board"]
    assert "target far is another machine" in caplog.text
    assert "target board is another machine" not in caplog.text
    far, here = meter.costs(teacher, final=True)
    assert far is None
    assert here is not None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("changes", [{"latency_ms": 1.0}, {"speedup": 2.0}])
def test_a_device_elsewhere_without_a_table_is_refused_with_advice(
    changes: dict[str, float], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    teacher = deep(1)
    with pytest.raises(TargetError, match="no latency table of this teacher") as refused:
        BudgetMeter(teacher, asking(**changes), [elsewhere()], PREPROCESS).latencies({TEACHER: lambda: teacher})
    assert str(refused.value).startswith("target far: not measured here: ")
    assert "edgeoe latency-table --target far" in str(refused.value)


def test_a_speedup_is_over_the_fp32_teacher_beside_that_in_the_targets_precision(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within turns the fp32 teacher takes three times as long: a speed-up of two is 1.5 times its latency in int8."""
    monkeypatch.setattr(budget, "time_interleaved", lambda *_, **__: [[1.0, 2.0, 1.0], [3.0, 6.0, 9.0]])
    teacher = deep(2)
    meter = BudgetMeter(teacher, asking(speedup=2.0), [replace(target(), precision="int8")], PREPROCESS)
    (limit,) = meter.limits
    (cost,) = meter.costs(teacher, final=True)
    assert (limit.quantity, limit.precision) == ("p50_ms", "int8")
    assert cost is not None
    assert 0 < limit.limit <= 1.5 * cost, "a cost is the upper end of the interval around the figure"
