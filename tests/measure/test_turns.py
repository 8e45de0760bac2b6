"""Several artifacts are timed in turns, by a clock that the work of others does not disturb."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeoe.measure.turns import _now_ns, time_in_turns
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import MeasureSettings, RuntimeSettings, Target


@pytest.fixture
def target() -> Target:
    return load_target("host-cpu")


class Runner:
    """Notes the shapes that it is called with."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.image_shape = (3, 4, 5)

    def infer(self, x: np.ndarray) -> np.ndarray:
        self.shapes.append(x.shape)
        return x


def test_a_call_is_one_batch_of_the_target_and_the_first_of_a_turn_is_not_timed(target: Target) -> None:
    shapes: list[tuple[int, ...]] = []
    batched = replace(target, measure=MeasureSettings(batch=7))
    runners = [Runner(shapes), Runner(shapes)]
    turns = time_in_turns(runners, batched, shape=(3, 4, 5), min_turns=4, seconds=0, calls=2)
    assert [len(of_one) for of_one in turns] == [4, 4]
    assert shapes == [(7, 3, 4, 5)] * 4 * 2 * 3


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the processor time of a thread is too coarse")
def test_one_thread_that_does_all_the_work_is_timed_by_its_processor_time(target: Target) -> None:
    """The time on the wall would count what others do on a busy machine."""
    alone, several = (
        _now_ns(target),
        _now_ns(replace(target, runtime=RuntimeSettings(threads=2))),
    )
    before = alone(), several()
    time.sleep(0.05)
    assert alone() - before[0] < 40_000_000
    assert several() - before[1] >= 50_000_000


@pytest.mark.parametrize(
    "changes",
    [
        {"backend": "openvino"},
        {"backend": "tensorrt"},
        {"runtime": RuntimeSettings(threads=1, provider="cuda")},
        {"runtime": RuntimeSettings(threads=1, provider="tensorrt")},
    ],
)
def test_work_that_other_threads_or_processors_do_is_timed_by_the_clock_on_the_wall(
    changes: dict[str, Any], target: Target
) -> None:
    assert _now_ns(replace(target, **changes)) is time.perf_counter_ns
