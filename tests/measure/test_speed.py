"""What is replicated, how often, and that it all arrives; never how fast."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import QUICK, speed

from edgeoe.codec import from_json, to_json
from edgeoe.errors import BackendError
from edgeoe.measure.speed import measure_speed, throughput_batches
from edgeoe.records.result import SpeedSamples
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import RuntimeSettings, Target


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


class FakeProcess:
    """Stands in for a process whose figures are known; notes what it is asked."""

    asked: list[tuple[str, dict[str, Any]]]
    started = 0

    def __init__(self, artifact: Path, target: Target) -> None:
        type(self).started += 1
        self.number = type(self).started

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def loaded(self) -> dict[str, float]:
        return {"load_ms": 30.0 + self.number, "first_ms": 5.0 + self.number}

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((do, arguments))
        answers: dict[str, dict[str, Any]] = {
            "warm_up": {"seconds": 0.0, "steady": self.number == 2},
            "time": {"calls_ns": [1_000_000 * self.number, 3_000_000]},
            "peak_memory": {"peak_memory_mb": 70.0 + self.number},
            "throughput": {"images_per_second": 100.0 * self.number + arguments.get("batch", 0)},
        }
        return answers[do]


@pytest.fixture
def fake_process(monkeypatch: pytest.MonkeyPatch) -> type[FakeProcess]:
    fake = type("Fake", (FakeProcess,), {"asked": [], "started": 0})
    monkeypatch.setattr("edgeoe.measure.speed.Process", fake)
    return fake


def test_every_figure_is_that_of_its_process_in_its_unit(target: Target, fake_process: type[FakeProcess]) -> None:
    measure = replace(target.measure, processes=3, batch=2, throughput_batches=(8,))
    measured = measure_speed(Path("a.onnx"), replace(target, measure=measure))
    assert measured.batch == 2
    assert measured.calls_ms == ((1.0, 3.0), (2.0, 3.0), (3.0, 3.0))
    assert (measured.load_ms, measured.first_ms) == ((31.0, 32.0, 33.0), (6.0, 7.0, 8.0))
    assert measured.peak_memory_mb == (71.0, 72.0, 73.0)
    assert measured.throughput_ips[8] == (108.0, 208.0, 308.0)
    assert measured.throughput_ips[2] == pytest.approx((1000.0, 800.0, 2000 / 3)), "two images a call"
    assert measured.unsteady == 2


def test_processes_share_the_least_time_and_the_least_calls(target: Target, fake_process: type[FakeProcess]) -> None:
    measure = replace(
        target.measure, processes=4, min_seconds=2.0, min_iterations=50, warmup_seconds=0.5, warmup_max_seconds=3.0
    )
    measure_speed(Path("a.onnx"), replace(target, measure=measure))
    one = [
        ("warm_up", {"least_seconds": 0.5, "most_seconds": 3.0}),
        ("time", {"seconds": 0.5, "calls": 13}),
        ("peak_memory", {}),  # before larger batches raise it
        ("throughput", {"batch": 4, "seconds": 0.5}),
    ]
    assert fake_process.asked == one * 4


def test_what_else_went_on_is_watched_where_it_matters(
    target: Target, fake_process: type[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[Any] = []

    class Watch:
        def __init__(self, *, cores: Any, gpu: bool) -> None:
            watched.append((cores, gpu))

        def __enter__(self) -> Watch:
            return self

        def __exit__(self, *raised: object) -> None:
            watched.append(fake_process.started)

        def facts(self) -> dict[str, Any]:
            return {"foreign_load": 0.5}

        def reasons(self, max_foreign_load: float) -> tuple[str, ...]:
            return (f"allowed {max_foreign_load}",)

    monkeypatch.setattr("edgeoe.measure.speed.NoiseWatch", Watch)
    measure = replace(target.measure, max_foreign_load=0.2)
    pinned = replace(target, measure=measure, runtime=RuntimeSettings(affinity=(1,)))
    measured = measure_speed(Path("a.onnx"), pinned)
    measure_speed(Path("a.onnx"), replace(target, measure=measure, runtime=RuntimeSettings(provider="cuda")))
    assert watched == [((1,), False), 2, (None, True), 4], "from before the first process to after the last"
    assert (measured.watched, measured.disturbed) == ({"foreign_load": 0.5}, ("allowed 0.2",))


def test_progress_is_told_every_process(target: Target, fake_process: type[FakeProcess]) -> None:
    told: list[Any] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Any]:
        told.append((title, total))
        yield lambda: told.append(fake_process.started)

    measure_speed(Path("a.onnx"), target, progress=progress)
    assert told == [("Measuring latency", 2), 1, 2]


def test_the_batch_sizes_are_each_once_and_ascending() -> None:
    assert throughput_batches(replace(QUICK, batch=4, throughput_batches=(16, 1, 4))) == [1, 4, 16]


def test_an_artifact_that_is_none_is_refused(tmp_path: Path, target: Target) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match="can't load it"):
        measure_speed(tmp_path / "a.onnx", target)


def test_samples_travel_as_json() -> None:
    own = speed(throughput_ips={1: (1.0,) * 8, 8: (2.0,) * 8}, disturbed=("x",))
    assert from_json(SpeedSamples, json.loads(json.dumps(to_json(own)))) == own
