"""Networks in, milliseconds on the target's runtime out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import BackendError, ConfigError, TargetError
from edgeoe.graph.export import onnx_from_student
from edgeoe.measure import turns
from edgeoe.stages import latency_probe, timing_graph
from edgeoe.stages.latency_probe import probe_on, probe_on_first, time_interleaved
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import RuntimeSettings, Target

PREPROCESS = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setattr(latency_probe, "_SECONDS", 0.0)
    return load_target("host-cpu")


def deep(layers: int) -> nn.Module:
    torch.manual_seed(0)
    body = [part for _ in range(layers) for part in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)
    )
    return network.eval().requires_grad_(False)


def test_a_network_with_many_times_the_work_takes_longer(target: Target) -> None:
    few, many = probe_on(target, PREPROCESS)([deep(1), deep(12)])
    assert 0 < few < many


def test_there_is_one_number_for_each_network(target: Target) -> None:
    measured = probe_on(target, PREPROCESS)([deep(1), deep(1), deep(1)])
    assert len(measured) == 3
    assert all(0 < ms < 10_000 for ms in measured)
    assert probe_on(target, PREPROCESS)([]) == []


def test_networks_take_turns_and_the_first_call_of_a_turn_does_not_count(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock of its own: each call takes as many ms as its network is numbered, and a cold one a second."""
    now = [0]
    calls: list[Any] = []

    class Runner:
        def __init__(self, number: int) -> None:
            self.number = number

        def __enter__(self) -> Runner:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def infer(self, x: object) -> None:
            cold = not calls or calls[-1] != self.number
            calls.append(self.number)
            now[0] += 1_000_000_000 if cold else self.number * 1_000_000

    class Backend:
        def __init__(self) -> None:
            self.opened = 0

        def check(self, target: object) -> None:
            pass

        def build(self, graph: object, target: object, artifact: object) -> None:
            pass

        def open(self, artifact: object, target: object) -> Runner:
            self.opened += 1
            return Runner(self.opened)

    monkeypatch.setattr(latency_probe, "backend_of", lambda _: Backend())
    monkeypatch.setattr(turns, "_now_ns", lambda _: lambda: now[0])
    assert probe_on(target, PREPROCESS)([deep(1), deep(1), deep(1)]) == [1.0, 2.0, 3.0]
    assert calls[: 3 * 6] == [1] * 6 + [2] * 6 + [3] * 6
    assert len(calls) == 20 * 3 * 6


def test_there_are_as_many_turns_as_asked_for(target: Target) -> None:
    turns = time_interleaved([deep(1), deep(1)], target, PREPROCESS, min_turns=7, seconds=0, calls=2)
    assert [len(of_one) for of_one in turns] == [7, 7]


def test_turns_go_on_until_the_time_is_up(target: Target) -> None:
    start = time.perf_counter()
    (turns,) = time_interleaved([deep(1)], target, PREPROCESS, min_turns=1, seconds=0.5, calls=1)
    assert len(turns) > 1
    assert time.perf_counter() - start >= 0.5


@pytest.fixture
def elsewhere(target: Target) -> Target:
    """A target whose runtime is not here."""
    return replace(target, name="board", runtime=RuntimeSettings(provider="tensorrt"))


def test_the_first_target_whose_runtime_is_here_is_measured_on(
    elsewhere: Target, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    (ms,) = probe_on_first([elsewhere, replace(target, name="second")], PREPROCESS)([deep(1)])
    assert ms > 0
    assert "latencies can't be measured on board: target board: not measured here: this " in caplog.text
    assert "stands in" not in caplog.text


def test_where_none_is_here_the_host_stands_in_and_says_so(elsewhere: Target, caplog: pytest.LogCaptureFixture) -> None:
    assert probe_on_first([elsewhere], PREPROCESS)([deep(1)])[0] > 0
    assert "latencies are measured on host-cpu instead of board" in caplog.text


def test_what_no_runtime_takes_is_an_error(elsewhere: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BackendError("it fails")

    monkeypatch.setattr("edgeoe.backends.onnxruntime.OnnxRuntime.build", refuse)
    with pytest.raises(BackendError, match="it fails"):
        probe_on_first([elsewhere], PREPROCESS)([deep(1)])


def test_a_network_that_one_exporter_cant_take_is_tried_with_the_other(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeoe.errors import ExportError

    tried = []

    def refusing(model: nn.Module, *, exporter: str = "dynamo", **options: Any) -> object:
        tried.append(exporter)
        if exporter == "legacy":
            raise ExportError("no")
        return onnx_from_student(model, exporter="legacy", **options)

    monkeypatch.setattr(timing_graph, "onnx_from_student", refusing)
    assert probe_on(target, PREPROCESS)([deep(1)])[0] > 0
    assert tried == ["legacy", "dynamo"]


def test_an_unknown_runtime_is_refused_before_anything_is_exported(target: Target) -> None:
    with pytest.raises(ConfigError, match="unknown backend 'tensorflow'"):
        probe_on(replace(target, backend="tensorflow"), PREPROCESS)


def test_a_device_that_is_not_here_is_refused_before_anything_is_exported() -> None:
    with pytest.raises(TargetError) as raised:
        probe_on(load_target("jetson-xavier-nx"), PREPROCESS)
    assert str(raised.value).startswith("target jetson-xavier-nx: not measured here: this ")
    assert str(raised.value).endswith("choose a target that is here: host-cpu is this machine.")
