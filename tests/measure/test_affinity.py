"""Measurements in this process keep to the cores of the profile, and it goes back to its own afterwards."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeoe.errors import BackendError
from edgeoe.measure.affinity import keep_on, loaded_on_cores, on_cores
from edgeoe.measure.turns import time_in_turns
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import RuntimeSettings, Target

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")


def test_cores_that_are_not_here_are_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, cores: Any) -> None:
        raise OSError

    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {16, 9, 3}, raising=False)
    with pytest.raises(BackendError, match=r"affinity = \[40\]: the cores that can be used here are 3, 9, 16\."):
        keep_on((40,))
    with pytest.raises(BackendError), on_cores((40,)):
        pytest.fail("nothing is measured on other cores")


def test_a_system_without_affinity_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    with pytest.raises(BackendError, match=r"can't keep a process on cores\. Remove it\."), on_cores((0,)):
        pytest.fail("nothing is measured")
    with on_cores(None):
        pass


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """What this thread is kept on, the latest last; it starts on cores 0 to 3."""
    kept: list[set[int]] = [{0, 1, 2, 3}]
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, wanted: kept.append({*wanted}), raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: kept[-1], raising=False)
    return kept


def test_the_cores_of_before_come_back_whatever_happens(cores: list[set[int]]) -> None:
    with on_cores((1, 2)):
        assert cores[-1] == {1, 2}
    assert cores[-1] == {0, 1, 2, 3}
    with pytest.raises(KeyboardInterrupt), on_cores((3,)):
        raise KeyboardInterrupt
    assert cores[-1] == {0, 1, 2, 3}
    changes = len(cores)
    with on_cores(None):
        assert len(cores) == changes


class Runner:
    """Notes the cores that it is called on."""

    def __init__(self, cores: list[set[int]]) -> None:
        self.cores, self.on = cores, list[set[int]]()
        self.image_shape = (3, 4, 5)

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.on.append(self.cores[-1])
        return x


@pytest.fixture
def pinned() -> Target:
    return replace(load_target("host-cpu"), runtime=RuntimeSettings(affinity=(2,)))


def test_an_artifact_is_loaded_and_timed_on_its_cores_and_what_lies_between_is_not(
    pinned: Target, cores: list[set[int]]
) -> None:
    loaded_on: list[set[int]] = []

    class Backend:
        @contextmanager
        def open(self, artifact: Path, target: Target) -> Iterator[Runner]:
            loaded_on.append(cores[-1])
            yield Runner(cores)

    backend: Any = Backend()
    for target, expected in ((pinned, {2}), (load_target("host-cpu"), {0, 1, 2, 3})):
        with loaded_on_cores(backend, Path("a"), target) as runner:
            assert isinstance(runner, Runner)
            assert cores[-1] == {0, 1, 2, 3}, "what is exported meanwhile has all cores"
            time_in_turns([runner], target, shape=(3, 4, 5), min_turns=2, seconds=0, calls=1)
            assert cores[-1] == {0, 1, 2, 3}
        assert loaded_on.pop() == expected
        assert runner.on == [expected] * 4


@needs_affinity
def test_threads_that_start_within_stay_there() -> None:
    """As those of a runtime do that starts them when an artifact is loaded."""
    usable = os.sched_getaffinity(0)
    core, kept, leave = min(usable), list[set[int]](), threading.Event()

    def work() -> None:
        leave.wait()
        kept.append(os.sched_getaffinity(0))

    with on_cores((core,)):
        thread = threading.Thread(target=work)
        thread.start()
    leave.set()
    thread.join()
    assert kept == [{core}]
    assert os.sched_getaffinity(0) == usable
