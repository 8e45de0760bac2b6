"""As many variants are loaded at once as fit into the memory, and each is measured beside the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeoe.measure import latency_table
from edgeoe.measure.latency_table import complete_table
from edgeoe.records.latency_table import TEACHER, LatencyTable
from edgeoe.targets.load import load_target

MB = 10**6
SHAPE = (3, 4, 4)


class Board:
    """A machine with so much memory, of which the teacher and each variant take some once they have been called."""

    def __init__(self, memory_mb: float | None, each_mb: float) -> None:
        self.memory_mb, self.each_mb = memory_mb, each_mb
        self.loaded: list[str] = []
        self.called: set[str] = set()
        self.together: list[tuple[str, ...]] = []

    def available_bytes(self) -> int | None:
        return None if self.memory_mb is None else round((self.memory_mb - len(self.called) * self.each_mb) * MB)

    @contextmanager
    def opened(self, name: str) -> Iterator[Runner]:
        self.loaded.append(name)
        yield Runner(self, name)
        self.loaded.remove(name)
        self.called.discard(name)

    def measure(self, count: int) -> LatencyTable:
        """A table of so many variants."""
        names = [TEACHER, *(f"v{number}" for number in range(count))]
        table = LatencyTable(network="0" * 64, target=load_target("host-cpu"), environment={})
        return complete_table(table, names, self.opened, shape=SHAPE, keep=self._note)

    def _note(self, table: LatencyTable) -> None:
        assert self.loaded == []
        self.together.append(tuple(name for name in table.latencies_ms if not {name} & {*sum(self.together, ())}))


class Runner:
    image_shape = SHAPE

    def __init__(self, board: Board, name: str) -> None:
        self._board, self._name = board, name

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self._board.called.add(self._name)
        return x


MakeBoard = Callable[[float | None, float], Board]


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> MakeBoard:
    monkeypatch.setattr(latency_table, "_SECONDS", 0.0)
    monkeypatch.setattr(latency_table, "_MIN_TURNS", 1)

    def make(memory_mb: float | None, each_mb: float) -> Board:
        made = Board(memory_mb, each_mb)
        monkeypatch.setattr(latency_table, "available_bytes", made.available_bytes)
        return made

    return make


@pytest.mark.parametrize(
    ("memory_mb", "each_mb", "sizes"),
    [
        (None, 100, [11, 11, 3]),
        (10_000, 100, [11, 11, 3]),
        (1_000, 100, [4, 4, 4, 4, 4, 4, 1]),
        (1_000, 300, [1] * 25),
        (100, 300, [1] * 25),
    ],
    ids=["unknown", "plenty", "for five artifacts", "for the two that are needed", "for none"],
)
def test_half_of_the_free_memory_is_taken_by_artifacts(
    memory_mb: float | None, each_mb: float, sizes: list[int], board: MakeBoard
) -> None:
    device = board(memory_mb, each_mb)
    table = device.measure(25)
    assert [len(part) for part in device.together] == [sizes[0] + 1, *sizes[1:]], "the teacher is new once"
    assert {*table.latencies_ms} == {TEACHER, *(f"v{number}" for number in range(25))}


@given(count=st.integers(0, 30), memory_mb=st.none() | st.floats(1, 4_000), each_mb=st.floats(0, 1_000))
def test_every_variant_is_measured_once_however_small_the_memory(
    count: int, memory_mb: float | None, each_mb: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        device = Board(memory_mb, each_mb)
        patch.setattr(latency_table, "_SECONDS", 0.0)
        patch.setattr(latency_table, "_MIN_TURNS", 1)
        patch.setattr(latency_table, "available_bytes", device.available_bytes)
        table = device.measure(count)
    assert sorted(sum(device.together, ())) == sorted(table.latencies_ms)
    assert len(table.latencies_ms) == count + 1
    most = 1 + latency_table._AT_ONCE
    assert all(len(part) <= most for part in device.together)
