"""Two artifacts in turns: who begins, on which core, and what a round's ratio is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import QUICK

from edgeoe.measure import interleaved
from edgeoe.measure.interleaved import Round, play_round, shared_core
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=replace(QUICK, min_iterations=50))


def with_runtime(target: Target, **changes: Any) -> Target:
    return replace(target, runtime=replace(target.runtime, **changes))


def test_a_round_has_as_many_calls_of_each_side(exported: Path, target: Target) -> None:
    graph = exported / "student.onnx"
    for number in (0, 1):
        played = play_round(graph, graph, target, number)
        assert len(played.base_ms) == len(played.new_ms) >= 1
        assert {len(row) for row in played.base_ms} == {len(row) for row in played.new_ms}
        assert sum(map(len, played.base_ms)) >= 20
        assert min(played.p50() + played.p99()) > 0


def test_a_rounds_ratio_is_that_within_turns() -> None:
    """The machine is twice as slow in every other turn; new is 10 % slower always, and its last turn was disturbed."""
    base = tuple((2.0, 2.0) if turn % 2 else (1.0, 1.0) for turn in range(7))
    new = (*(tuple(1.1 * ms for ms in row) for row in base[:-1]), (9.0, 9.0))
    was, now = Round(base, new).p50()
    assert (was, now / was) == (1.0, pytest.approx(1.1))
    assert Round(base, new).p99() == (2.0, 9.0)


def test_who_is_loaded_first_alternates(
    exported: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, new = (tmp_path / name for name in ("base.onnx", "new.onnx"))
    for path in (base, new):
        path.write_bytes((exported / "student.onnx").read_bytes())
    started: list[Path] = []

    class Noted(interleaved.Process):
        def __init__(self, artifact: Path, target: Target) -> None:
            started.append(artifact)
            super().__init__(artifact, target)

    monkeypatch.setattr(interleaved, "Process", Noted)
    for number in range(3):
        play_round(base, new, target, number)
    assert started == [base, new, new, base, base, new]


@pytest.mark.parametrize(
    ("affinity", "usable", "cores"),
    [
        (None, (0, 1), [(0,), (0,), (1,), (1,), (0,)]),
        ((5, 7), (0, 1), [(5,), (5,), (7,), (7,), (5,)]),
        (None, (3,), [(3,)] * 5),
        (None, (), [None] * 5),
    ],
)
def test_both_share_a_core_which_goes_round(
    affinity: tuple[int, ...] | None,
    usable: Sequence[int],
    cores: list[tuple[int, ...] | None],
    target: Target,
) -> None:
    own = with_runtime(target, affinity=affinity)
    assert [shared_core(own, number, usable).runtime.affinity for number in range(5)] == cores


@pytest.mark.parametrize("runtime", [{"threads": 2}, {"provider": "cuda"}, {"provider": "openvino", "unit": "gpu"}])
def test_what_one_core_does_not_do_is_left_to_the_scheduler(runtime: dict[str, Any], target: Target) -> None:
    own = with_runtime(target, **runtime)
    assert shared_core(own, 0, (0, 1)) is own


def test_tensorrt_is_left_to_the_scheduler() -> None:
    own = load_target("jetson-orin-nano")
    assert shared_core(own, 0, (0, 1)) is own
