"""Two artifacts in turns: who begins, on which core, and what a round's ratio is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import QUICK

from edgeoe.measure import interleaved
from edgeoe.measure.interleaved import Round, measure_round, pin_to_shared_core
from edgeoe.measure.process import Process
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=replace(QUICK, min_iterations=50))


class FakeProcess:
    """Stands in for a process: each call takes `call_ms(artifact, number of calls so far)`; notes what it is asked."""

    asked: list[tuple[Path, str, dict[str, Any]]]
    calls: int
    call_ms: Callable[[Path, int], float]

    def __init__(self, artifact: Path, target: Target) -> None:
        self.artifact, self.target = artifact, target

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((self.artifact, do, arguments))
        if do != "burst":
            return {"seconds": 0.0, "steady": True}
        taken = []
        for _ in range(arguments["calls"]):
            taken.append(int(1e6 * type(self).call_ms(self.artifact, type(self).calls)))
            type(self).calls += 1
        return {"calls_ns": taken}


@pytest.fixture
def fake_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path, int], float]], type[FakeProcess]]:
    """`fake_process(call_ms)`: rounds are played with processes whose calls take so long."""

    def install(call_ms: Callable[[Path, int], float]) -> type[FakeProcess]:
        fake = type("Fake", (FakeProcess,), {"asked": [], "calls": 0, "call_ms": staticmethod(call_ms)})
        monkeypatch.setattr(interleaved, "Process", fake)
        return fake

    return install


def with_runtime(target: Target, **changes: Any) -> Target:
    return replace(target, runtime=replace(target.runtime, **changes))


def test_a_round_has_as_many_calls_of_each_side(exported: Path, target: Target) -> None:
    graph = exported / "student.onnx"
    for number in (0, 1):
        played = measure_round(graph, graph, target, number)
        assert len(played.base_ms) == len(played.new_ms) >= 1
        assert {len(row) for row in played.base_ms} == {len(row) for row in played.new_ms}
        assert sum(map(len, played.base_ms)) >= 20
        assert min(played.p50() + played.p99()) > 0


def test_a_rounds_ratio_is_that_within_turns() -> None:
    """The machine is twice as slow in every other turn; new is 10 % slower always, and its last turn was disturbed."""
    base = tuple((2.0, 2.0) if turn % 2 else (1.0, 1.0) for turn in range(7))
    new = (*(tuple(1.1 * ms for ms in row) for row in base[:-1]), (9.0, 9.0))
    was, now = Round(base, new).p50()
    assert was == 1.0
    assert now / was == pytest.approx(1.1)
    assert Round(base, new).p99() == (2.0, 9.0)


BASE, NEW = Path("base.onnx"), Path("new.onnx")
FakeProcesses = Callable[[Callable[[Path, int], float]], type[FakeProcess]]


@pytest.mark.parametrize(
    ("number", "turn"), [(0, "base new new base"), (1, "new base base new"), (2, "base new new base")]
)
def test_turns_go_abba(number: int, turn: str, target: Target, fake_process: FakeProcesses) -> None:
    fake = fake_process(lambda artifact, calls: 1.0)
    played = measure_round(BASE, NEW, target, number)
    bursts = [artifact.stem for artifact, do, _ in fake.asked if do == "burst"][2:]  # two say how long a call takes
    assert bursts == turn.split() * len(played.base_ms)


@pytest.mark.parametrize("number", [0, 1])
def test_a_machine_that_slows_down_steadily_disturbs_both_sides_alike(
    number: int, target: Target, fake_process: FakeProcesses
) -> None:
    fake_process(lambda artifact, calls: 1.0 + calls)
    played = measure_round(BASE, NEW, target, number)
    for base, new in zip(played.base_ms, played.new_ms, strict=True):
        assert sum(base) == pytest.approx(sum(new))


@pytest.mark.parametrize("number", [0, 1])
def test_each_side_gets_its_own_times(number: int, target: Target, fake_process: FakeProcesses) -> None:
    fake_process(lambda artifact, calls: 3.0 if artifact == NEW else 2.0)
    played = measure_round(BASE, NEW, target, number)
    assert {ms for row in played.base_ms for ms in row} == {2.0}
    assert {ms for row in played.new_ms for ms in row} == {3.0}


@pytest.mark.parametrize(
    ("slower_ms", "calls", "turns"),
    [
        (0.5, 20, 13),  # 10 ms a burst; 13 turns of two bursts are the first that last 0.25 s
        (100.0, 3, 4),  # 3 calls at least; 4 turns are the first with 20 calls
        (5.0, 3, 9),  # 3 calls at least; 9 turns are the first that last 0.25 s
    ],
)
def test_the_slower_side_sets_how_many_calls_and_turns_there_are(
    slower_ms: float, calls: int, turns: int, target: Target, fake_process: FakeProcesses
) -> None:
    fake = fake_process(lambda artifact, _: slower_ms if artifact == NEW else slower_ms / 10)
    played = measure_round(BASE, NEW, target, 0)
    bursts = [arguments["calls"] for _, do, arguments in fake.asked if do == "burst"]
    assert bursts == [3, 3, *[calls] * (4 * turns)]
    for side in (played.base_ms, played.new_ms):
        assert [len(row) for row in side] == [2 * calls] * turns


@pytest.mark.parametrize(
    ("least", "most", "asked"), [(0.5, 5.0, (0.5, 1.0)), (2.0, 5.0, (1.0, 1.0)), (0.0, 0.0, (0.0, 0.0))]
)
def test_a_warm_up_lasts_a_second_at_most(
    least: float, most: float, asked: tuple[float, float], target: Target, fake_process: FakeProcesses
) -> None:
    fake = fake_process(lambda artifact, calls: 1.0)
    measure = replace(target.measure, warmup_seconds=least, warmup_max_seconds=most)
    measure_round(BASE, NEW, replace(target, measure=measure), 0)
    bounds = {"least_seconds": asked[0], "most_seconds": asked[1]}
    assert [one for one in fake.asked if one[1] == "warm_up"] == [(BASE, "warm_up", bounds), (NEW, "warm_up", bounds)]


def test_both_processes_of_a_round_are_kept_on_its_core(
    target: Target, fake_process: FakeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, cores = fake_process(lambda artifact, calls: 1.0), []
    monkeypatch.setattr(interleaved, "usable_cores", lambda: (4, 6))
    monkeypatch.setattr(fake, "__enter__", lambda self: (cores.append(self.target.runtime.affinity), self)[1])
    for number in range(4):
        measure_round(BASE, NEW, target, number)
    assert cores == [(4,)] * 4 + [(6,)] * 4


def test_who_is_loaded_first_alternates(
    exported: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, new = (tmp_path / name for name in ("base.onnx", "new.onnx"))
    for path in (base, new):
        path.write_bytes((exported / "student.onnx").read_bytes())
    started: list[Path] = []

    class Noted(Process):
        def __init__(self, artifact: Path, target: Target) -> None:
            started.append(artifact)
            super().__init__(artifact, target)

    monkeypatch.setattr(interleaved, "Process", Noted)
    for number in range(3):
        measure_round(base, new, target, number)
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
    assert [pin_to_shared_core(own, number, usable).runtime.affinity for number in range(5)] == cores


@pytest.mark.parametrize("runtime", [{"threads": 2}, {"provider": "cuda"}, {"provider": "openvino", "unit": "gpu"}])
def test_what_one_core_does_not_do_is_left_to_the_scheduler(runtime: dict[str, Any], target: Target) -> None:
    own = with_runtime(target, **runtime)
    assert pin_to_shared_core(own, 0, (0, 1)) is own


def test_tensorrt_is_left_to_the_scheduler() -> None:
    own = load_target("jetson-orin-nano")
    assert pin_to_shared_core(own, 0, (0, 1)) is own
