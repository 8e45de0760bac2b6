"""What the worker answers to each command, with a runner and a clock that a test gives it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import QUICK
from numpy.typing import NDArray

from edgeoe.codec import to_json
from edgeoe.errors import BackendError
from edgeoe.measure import worker
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import RuntimeSettings, Target


class FakeRunner:
    """Takes 1 ms for each image; its first call takes 10 ms more."""

    image_shape = (3, 4, 5)

    def __init__(self) -> None:
        self.now_ns, self.batches = 0, list[NDArray[np.float32]]()

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.now_ns += 1_000_000 * len(x) + (0 if self.batches else 10_000_000)
        self.batches.append(x)
        return x


Asked = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    made = FakeRunner()
    for module in ("worker", "latency"):
        monkeypatch.setattr(f"edgeoe.measure.{module}.perf_counter_ns", lambda: made.now_ns)
    return made


@pytest.fixture
def asked(runner: FakeRunner, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """`asked(*commands, **measure)`: the answers of a worker that takes 40 ms to load `runner`, the first one first."""

    class Backend:
        @contextmanager
        def open(self, artifact: Path, target: Target) -> Iterator[FakeRunner]:
            assert artifact == Path("a.onnx")
            runner.now_ns += 40_000_000
            yield runner

    def serve(*commands: dict[str, Any], **measure: Any) -> list[dict[str, Any]]:
        target = replace(load_target("host-cpu"), measure=replace(QUICK, **measure))
        lines = [{"artifact": "a.onnx", "target": to_json(target)}, *commands]
        answers = io.StringIO()
        worker.serve(io.StringIO("".join(f"{json.dumps(line)}\n" for line in lines)), answers)
        return [json.loads(line) for line in answers.getvalue().splitlines()]

    monkeypatch.setattr(worker, "backend_of", lambda target: Backend())
    return serve


def test_it_says_how_long_loading_and_the_first_call_took(asked: Asked, runner: FakeRunner) -> None:
    assert asked(batch=2) == [{"load_ms": 40.0, "first_ms": 12.0}]
    assert len(runner.batches) == 1


def test_calls_are_timed_until_both_minima_are_reached(asked: Asked) -> None:
    of_calls, of_time = asked({"do": "time", "seconds": 0, "calls": 3}, {"do": "time", "seconds": 0.005, "calls": 1})[
        1:
    ]
    assert of_calls == {"calls_ns": [1_000_000] * 3}
    assert of_time == {"calls_ns": [1_000_000] * 5}


def test_a_burst_leaves_its_first_call_out(asked: Asked, runner: FakeRunner) -> None:
    assert asked({"do": "burst", "calls": 4})[1] == {"calls_ns": [1_000_000] * 4}
    assert len(runner.batches) == 1 + 5


def test_the_warm_up_keeps_within_its_bounds(asked: Asked) -> None:
    steady, none = asked(
        {"do": "warm_up", "least_seconds": 0.5, "most_seconds": 2.0},
        {"do": "warm_up", "least_seconds": 0, "most_seconds": 0},
    )[1:]
    assert steady == {"seconds": 0.5, "steady": True}
    assert none == {"seconds": 0.0, "steady": True}


def test_throughput_is_images_over_seconds_at_its_own_batch(asked: Asked, runner: FakeRunner) -> None:
    assert asked({"do": "throughput", "batch": 8, "seconds": 0.04})[1] == {"images_per_second": pytest.approx(1000)}
    assert [len(x) for x in runner.batches] == [1, *[8] * (1 + 5)], "one more, which is not timed"
    assert asked({"do": "throughput", "batch": 2, "seconds": 0})[1] == {"images_per_second": pytest.approx(1000)}
    assert [len(x) for x in runner.batches][7:] == [1, *[2] * (1 + 3)], "at least three"


def test_images_are_noise_of_the_profiles_batch_and_the_runners_shape(asked: Asked, runner: FakeRunner) -> None:
    asked(batch=3)
    (x,) = runner.batches
    assert (x.shape, x.dtype) == ((3, 3, 4, 5), np.float32)
    assert abs(float(x.mean())) < 0.5
    assert 0.5 < float(x.std()) < 1.5


def test_what_the_backend_refuses_is_the_last_answer(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: Target) -> None:
        raise BackendError("no such backend here.")

    monkeypatch.setattr(worker, "backend_of", refuse)
    assert asked({"do": "peak_memory"}) == [{"error": "no such backend here."}]


def test_peak_memory_is_what_the_system_says(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    status = "Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  50000 kB\nVmRSS:\t  40000 kB\n"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda self, encoding: status)
        assert worker._peak_memory_mb() == pytest.approx(51.2)
    monkeypatch.setattr(worker, "_peak_memory_mb", lambda: 51.2)
    assert asked({"do": "peak_memory"})[1] == {"peak_memory_mb": 51.2}


@pytest.mark.parametrize(("platform", "megabytes"), [("linux", 51.2), ("darwin", 0.05)])
def test_without_proc_peak_memory_is_that_of_rusage(
    platform: str, megabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In kilobytes, but on macOS in bytes."""

    def missing(self: Path, encoding: str) -> str:
        raise FileNotFoundError

    class Usage:
        ru_maxrss = 50_000

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr("resource.getrusage", lambda who: Usage)
    monkeypatch.setattr(sys, "platform", platform)
    assert worker._peak_memory_mb() == pytest.approx(megabytes)


def test_it_keeps_to_the_cores_that_the_profile_names(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(worker, "keep_on", kept.append)
    asked()
    assert kept == []
    pinned = replace(load_target("host-cpu"), runtime=RuntimeSettings(affinity=(2, 3)))
    request = json.dumps({"artifact": "a.onnx", "target": to_json(pinned)})
    worker.serve(io.StringIO(f"{request}\n"), io.StringIO())
    assert kept == [(2, 3)]
