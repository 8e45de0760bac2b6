"""Figures of raw samples, and when they may not be judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up import speed

from edgeoe.measure.summary import speed_from_samples
from edgeoe.targets.profile import MeasureSettings

SETTINGS = MeasureSettings()


def test_percentiles_are_nearest_ranks_among_all_calls() -> None:
    calls = (tuple(float(ms) for ms in range(1, 101)), tuple(4.0 * ms for ms in range(1, 101)))
    found = speed_from_samples(speed(calls_ms=calls, processes=len(calls)), SETTINGS)
    assert found.latency.p50.value == 80.0
    assert found.latency.p90.value == 320.0
    assert found.latency.p99.value == 392.0
    assert (found.latency.n, found.latency.processes, found.latency.batch) == (200, 2, 1)


def test_everything_else_is_a_mean_over_processes_too() -> None:
    found = speed_from_samples(
        speed(processes=2, load_ms=(1.0, 4.0), throughput_ips={1: (10.0, 40.0), 8: (90.0, 90.0)}), SETTINGS
    )
    assert found.load_ms.value == pytest.approx(2.0)
    assert (found.first_ms.value, found.peak_memory_mb.value) == (pytest.approx(4.0), pytest.approx(80.0))
    assert found.load_ms.low < 1.0 < 4.0 < found.load_ms.high
    assert {batch: rate.value for batch, rate in found.throughput_ips.items()} == pytest.approx({1: 20.0, 8: 90.0})


def test_quiet_samples_have_no_noise() -> None:
    assert speed_from_samples(speed(), SETTINGS).noise == ()


def test_what_disturbed_them_is_told() -> None:
    found = speed_from_samples(speed(disturbed=("other processes used 62 % of the CPU",)), SETTINGS)
    assert found.noise == ("other processes used 62 % of the CPU",)


def test_processes_that_differ_are_noise() -> None:
    (reason,) = speed_from_samples(speed(spread=0.5), SETTINGS).noise
    assert "from process to process, allowed 10 %" in reason
    assert speed_from_samples(speed(spread=0.5), replace(SETTINGS, max_variation=5.0)).noise == ()


def test_processes_are_compared_by_their_medians() -> None:
    """A single slow call of one process is no difference, and the allowed variation is one that is still allowed."""
    calm = [(2.0,) * 9] * 7
    assert speed_from_samples(speed(calls_ms=(*calm, (*[2.0] * 8, 900.0)), processes=8), SETTINGS).noise == ()
    unequal = speed(calls_ms=((1.0,) * 9, (3.0,) * 9), processes=2)  # varies by half of the square root of 2
    assert speed_from_samples(unequal, SETTINGS).noise == ("p50 varies by 71 % from process to process, allowed 10 %",)
    assert speed_from_samples(unequal, replace(SETTINGS, max_variation=0.5**0.5 + 1e-9)).noise == ()


def test_warm_ups_that_never_settled_are_noise_if_they_are_most() -> None:
    assert speed_from_samples(speed(unsteady=4), SETTINGS).noise == ()
    assert speed_from_samples(speed(unsteady=5), SETTINGS).noise == (
        "5 of 8 processes were not steady after 5 s of warm-up",
    )
