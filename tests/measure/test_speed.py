"""What is replicated, how often, and that it all arrives; never how fast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import QUICK, speed

from edgeoe.codec import from_json, to_json
from edgeoe.errors import BackendError
from edgeoe.measure.speed import measure_speed
from edgeoe.records.result import SpeedSamples
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=replace(QUICK, min_iterations=50, throughput_batches=(4,)))


def test_every_process_gives_its_share(exported: Path, target: Target) -> None:
    measured = measure_speed(exported / "student.onnx", target)
    assert len(measured.calls_ms) == 2
    assert all(len(calls) >= 25 for calls in measured.calls_ms)
    assert {batch: len(rates) for batch, rates in measured.throughput_ips.items()} == {1: 2, 4: 2}
    for figures in (measured.load_ms, measured.first_ms, measured.peak_memory_mb, *measured.throughput_ips.values()):
        assert len(figures) == 2
        assert all(figure > 0 for figure in figures)
    assert (measured.batch, measured.unsteady) == (1, 0)


def test_the_profiles_batch_is_what_a_call_takes(exported: Path, target: Target) -> None:
    larger = replace(target, measure=replace(target.measure, batch=16, throughput_batches=()))
    measured = measure_speed(exported / "student.onnx", larger)
    assert (measured.batch, set(measured.throughput_ips)) == (16, {16})
    calls = measured.calls_ms[0]
    assert measured.throughput_ips[16][0] == pytest.approx(16 * len(calls) / (sum(calls) / 1e3))


def test_an_artifact_that_is_none_is_refused(tmp_path: Path, target: Target) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match="can't load it"):
        measure_speed(tmp_path / "a.onnx", target)


def test_samples_travel_as_json() -> None:
    own = speed(throughput_ips={1: (1.0,) * 8, 8: (2.0,) * 8}, disturbed=("x",))
    assert from_json(SpeedSamples, json.loads(json.dumps(to_json(own)))) == own
