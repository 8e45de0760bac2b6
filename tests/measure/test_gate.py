"""Many changes make one outcome, and their number is no excuse."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.measure.gate import gate, holm, with_holm
from edgeoe.records.comparison import AccuracyChange, Change, LatencyChange
from edgeoe.records.measurement import Estimate


def latency(
    change: Change = "no worse", quantity: Literal["p50", "p99"] = "p50", p_value: float = 0.5, reason: str = ""
) -> LatencyChange:
    return LatencyChange(
        quantity=quantity,
        base_ms=2.0,
        new_ms=2.2,
        ratio=Estimate(1.1, 1.09, 1.11),
        p_value=p_value,
        tolerance=0.03,
        n=20,
        change=change,
        reason=reason,
    )


def accuracy(change: Change = "no worse", subject: str = "top-1", reason: str = "") -> AccuracyChange:
    return AccuracyChange(
        subject=subject,
        images=500,
        only_base=20,
        only_new=0,
        difference=Estimate(-0.04, -0.06, -0.026),
        p_value=1e-6,
        tolerance=0.01,
        change=change,
        reason=reason,
    )


def test_holm_adjusts_as_published() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust(p, "holm")
    assert holm([]) == []
    assert holm([0.7]) == [0.7]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for (p, a), (q, b) in itertools.product(zip(p_values, adjusted, strict=True), repeat=2):
        assert p <= a <= min(1.0, len(p_values) * p)  # between the raw one and Bonferroni's
        assert p > q or a <= b
    least = min(p_values)
    assert min(adjusted) == pytest.approx(min(1.0, len(p_values) * least))
    for alpha in (0.01, 0.1):  # Holm's own words: go up the sorted ones, stop at the first above alpha / what is left
        ordered = sorted(p_values)
        stops = next((i for i, p in enumerate(ordered) if (len(ordered) - i) * p >= alpha), len(ordered))
        assert sum(a < alpha for a in adjusted) == stops


def test_one_target_of_many_needs_more_than_its_own_alpha() -> None:
    changes = [latency("regressed", p_value=0.00195), latency("regressed", p_value=1e-5), latency("no worse")]
    changes.append(latency("improved", p_value=0.00195))
    held = with_holm(changes, 0.002)
    assert [change.change for change in held] == ["inconclusive", "regressed", "no worse", "no worse"]
    assert "p = 0.0019 is 0.0058 among 4 comparisons, not below 0.002" in held[0].reason
    assert held[1:3] == changes[1:3]
    assert held[0].p_value == 0.00195
    assert with_holm(changes[:1], 0.002) == changes[:1]
    assert with_holm([], 0.002) == []


@pytest.mark.parametrize(
    ("p50", "p99", "top1", "rare", "outcome"),
    [
        ("no worse", "no worse", "no worse", "no worse", "passed"),
        ("improved", "improved", "improved", "improved", "passed"),
        ("no worse", "inconclusive", "no worse", "inconclusive", "passed"),
        ("inconclusive", "no worse", "no worse", "no worse", "inconclusive"),
        ("no worse", "no worse", "inconclusive", "no worse", "inconclusive"),
        ("regressed", "no worse", "inconclusive", "no worse", "failed"),
        ("inconclusive", "regressed", "no worse", "no worse", "failed"),
        ("improved", "no worse", "regressed", "no worse", "failed"),
        ("improved", "no worse", "improved", "regressed", "failed"),
    ],
)
def test_a_gate_fails_by_any_regression_and_waits_for_p50_and_top1(
    p50: Change, p99: Change, top1: Change, rare: Change, outcome: str
) -> None:
    found, reason = gate(
        [latency(p50, "p50", reason="p50 unclear"), latency(p99, "p99", reason="p99 unclear")],
        [accuracy(top1, reason="top unclear"), accuracy(rare, "zebra", reason="zebra unclear")],
    )
    assert found == outcome
    for change, told in ((p99, "p99 inconclusive: p99 unclear"), (rare, "zebra inconclusive: zebra unclear")):
        if change == "inconclusive" and outcome == "passed":
            assert told in reason


def test_a_gate_tells_by_how_much() -> None:
    outcome, reason = gate([latency("regressed")], [accuracy("regressed", "zebra")])
    assert outcome == "failed"
    assert "p50 regressed: new takes 1.1" in reason
    assert "zebra regressed: -4 points (-6 to -2.6), allowed -1" in reason


def test_a_gate_with_nothing_to_go_by_does_not_pass() -> None:
    assert gate([], []) == ("inconclusive", "nothing was compared")
