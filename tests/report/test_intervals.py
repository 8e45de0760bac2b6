"""Two processes have no interval of speed that says anything, and none is shown; what is judged keeps its own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import speed
from report.changes import validation

from edgeoe.measure.summary import speed_from_samples
from edgeoe.records.measurement import Check, Estimate, Speed, Validation
from edgeoe.report.html import validation_page
from edgeoe.report.json import validation_json
from edgeoe.report.terminal import show_validation
from edgeoe.report.wording import TOO_FEW_PROCESSES, check_text, has_intervals, shown_speed, with_end
from edgeoe.targets.load import load_target


def measured(processes: int) -> Speed:
    """The speed over so many processes, in which the first call took 1 ms, then 300, and so on."""
    samples = speed()
    first = tuple(300.0 if number % 2 else 1.0 for number in range(processes))
    few = replace(
        samples,
        calls_ms=samples.calls_ms[:1] * processes,
        load_ms=first,
        first_ms=first,
        peak_memory_mb=first,
        throughput_ips={1: first},
    )
    return speed_from_samples(few, load_target("host-cpu").measure)


def of(processes: int) -> Validation:
    made = validation(Check(name="p50_ms", limit=1.0, sense="at most", measured=None, outcome="inconclusive"))
    return replace(made, measurement=replace(made.measurement, speed=measured(processes)))


def test_with_two_processes_the_figures_stand_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert measured(2).first_ms.high > 1e6
    show_validation(of(2))
    shown = capsys.readouterr()
    assert "first call" in shown.out
    assert "[" not in shown.out.replace("[95 %]", "")
    assert TOO_FEW_PROCESSES in " ".join(f"{shown.out} {shown.err}".split())
    show_validation(of(3))
    assert "[" in capsys.readouterr().out.replace("[95 %]", "")
    assert "[" not in validation_page(of(2)).partition("<body>")[2]
    assert "[" in validation_page(of(3)).partition("<body>")[2]


def test_in_json_their_ends_are_null() -> None:
    intervals = validation_json(of(2))["intervals"]
    assert isinstance(intervals, dict)
    two = measured(2)
    assert intervals["speed"]["first_ms"] == {"value": two.first_ms.value, "low": None, "high": None}
    assert intervals["speed"]["latency"]["p99"] == {"value": two.latency.p99.value, "low": None, "high": None}
    assert intervals["speed"]["throughput_ips"]["1"]["low"] is None
    assert intervals["speed"]["latency"]["processes"] == 2
    intervals = validation_json(of(3))["intervals"]
    assert isinstance(intervals, dict)
    assert intervals["speed"]["first_ms"]["high"] == measured(3).first_ms.high


@pytest.mark.parametrize("processes", range(2, 9))
def test_values_stay_and_so_does_a_speed_with_intervals(processes: int) -> None:
    whole = measured(processes)
    shown = shown_speed(whole)
    assert (shown == whole) == has_intervals(whole) == (processes > 2)
    assert shown.latency.p50.value == whole.latency.p50.value
    assert shown_speed(shown) == shown


@given(st.floats(1e-3, 1e3), st.floats(1.0, 1e9))
def test_an_end_beyond_all_measure_is_none(value: float, times: float) -> None:
    estimate = Estimate(value, 0.0, value * times)
    assert with_end(estimate).high == (math.inf if estimate.high > 1000 * value else estimate.high)
    assert with_end(estimate).value == value


def test_a_check_shows_what_it_was_judged_by_up_to_there() -> None:
    check = Check(name="p50_ms", limit=1.0, sense="at most", measured=Estimate(2, 0.1, 4e8), outcome="inconclusive")
    assert check_text(check) == "p50_ms 2 [0.1, ?], at most 1"
    assert check_text(replace(check, measured=Estimate(2, 0.1, 400))) == "p50_ms 2 [0.1, 400], at most 1"
    assert check_text(replace(check, measured=Estimate(0.0, -0.1, 0.2))) == "p50_ms 0 [-0.1, 0.2], at most 1"
