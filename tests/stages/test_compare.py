"""Two sides are found, measured or read, and judged. Real processes run only where the test says so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import QUICK, result, speed
from small_runs import make_run

from edgeoe.errors import BackendError, ConfigError, RunError
from edgeoe.files import file_sha256
from edgeoe.measure.interleaved import Round
from edgeoe.pipeline import build
from edgeoe.records.result import Result
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.result_file import write_result
from edgeoe.stages import compare as stage
from edgeoe.stages.baseline import Store
from edgeoe.stages.compare import GateSettings, compare
from edgeoe.stages.sides import Side, find_side, unchanged_sides
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target

SETTINGS = GateSettings()
HERE = result().environment


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=QUICK)


@pytest.fixture
def duel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """`duel(ratio, noise)`: rounds in which new takes `ratio` times as long; the list has the number of each."""

    def make(ratio: float, noise: float = 0.01) -> list[int]:
        rng, played = np.random.default_rng(0), []

        def measure_round(base: Path, new: Path, target: Target, number: int) -> Round:
            played.append(number)
            machine = np.exp(rng.normal(0, 0.3))  # whatever else goes on, it disturbs both
            base_ms, new_ms = (
                factor * machine * np.exp(rng.normal(0, noise) + rng.normal(0, 0.02, 100)) for factor in (1.0, ratio)
            )
            return Round((tuple(base_ms),), (tuple(new_ms),))

        monkeypatch.setattr(stage, "measure_round", measure_round)
        monkeypatch.setattr(stage, "require_admitted", lambda artifact: None)  # there is none
        return played

    return make


def two(artifact: Path, **results: Any) -> tuple[Side, Side]:
    sides = (Side(name=name, artifact=artifact, result=results.get(name)) for name in ("base", "new"))
    base, new = sides
    return base, new


def results_alone(base: Result, new: Result) -> tuple[Side, Side]:
    return Side(name="base", artifact=None, result=base), Side(name="new", artifact=None, result=new)


@pytest.mark.parametrize(
    ("ratio", "change", "outcome"),
    [
        (1.00, "no worse", "passed"),
        (1.05, "regressed", "failed"),
        (1.20, "regressed", "failed"),
        (0.90, "improved", "passed"),
    ],
)
def test_a_clear_answer_comes_after_the_fewest_rounds(
    ratio: float, change: str, outcome: str, target: Target, duel: Callable[..., list[int]]
) -> None:
    played = duel(ratio)
    (made,) = compare([(target, *two(Path("x.onnx")))], SETTINGS)
    assert (made.how, made.latency[0].change, made.outcome) == ("interleaved", change, outcome)
    assert made.latency[0].ratio.value == pytest.approx(ratio, rel=0.02)
    assert played == list(range(10))


def test_an_unclear_answer_goes_on_to_a_bound_and_is_then_inconclusive(
    target: Target, duel: Callable[..., list[int]]
) -> None:
    played = duel(1.03)
    (made,) = compare([(target, *two(Path("x.onnx")))], replace(SETTINGS, most_rounds=20))
    assert (made.latency[0].change, made.outcome, len(played)) == ("inconclusive", "inconclusive", 20)
    assert "more rounds" in made.latency[0].reason


def test_the_time_is_bounded_too(target: Target, duel: Callable[..., list[int]]) -> None:
    played = duel(1.0)
    (made,) = compare([(target, *two(Path("x.onnx")))], replace(SETTINGS, most_seconds=0.0))
    assert len(played) == 1
    assert made.outcome == "inconclusive"


def test_more_targets_need_more_certainty(target: Target, duel: Callable[..., list[int]]) -> None:
    played = duel(1.10)
    other = replace(target, name="other")
    first, second = compare([(one, *two(Path("x.onnx"))) for one in (target, other)], SETTINGS)
    assert (first.outcome, second.outcome) == ("failed", "failed")
    assert len(played) == 22, "2 / 2**11 is the first that Holm over two targets can accept"


def test_real_processes_take_turns(target: Target, exported: Path) -> None:
    run = Run.open(exported)
    build(run, target)
    side = find_side(str(exported), target, Store(exported))
    settings = GateSettings(tolerance=9.0, p99_tolerance=99.0)  # that it runs is tested here, not how fast
    (made,) = compare([(target, side, side)], settings)
    assert (made.how, made.latency[0].n, made.outcome) == ("interleaved", 10, "passed")
    assert made.latency[0].base_ms > 0
    assert made.environment["versions"]["onnxruntime"]
    assert "no predictions" in made.notes[0]


def test_an_artifact_that_is_none_is_told_in_one_line(target: Target, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    side = find_side(str(tmp_path / "a.onnx"), target, Store(tmp_path))
    with pytest.raises(BackendError, match="can't load it"):
        compare([(target, side, side)], SETTINGS)


def test_stored_results_of_one_device_are_compared_by_process(target: Target) -> None:
    base, new = (Side(name=name, artifact=None, result=result(speed=speed(ms=ms, seed=seed)))
                 for name, ms, seed in (("a", 2.0, 1), ("b", 2.4, 2)))  # fmt: skip
    (made,) = compare([(target, base, new)], SETTINGS)
    assert (made.how, made.latency[0].change, made.outcome) == ("stored", "regressed", "failed")
    assert made.latency[0].ratio.value == pytest.approx(1.2, rel=0.03)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"environment": {**HERE, "cpu": "Another CPU"}}, "cpu was Some CPU and is Another CPU"),
        ({"environment": {**HERE, "versions": {"onnxruntime": "1.31.0"}}}, "1.31.0"),
        ({"speed": speed(batch=8, throughput_ips={8: (1.0,) * 8})}, "batch was 1 and is 8"),
    ],
)
def test_stored_results_of_other_conditions_are_not_compared(other: dict[str, Any], field: str, target: Target) -> None:
    base = Side(name="a", artifact=None, result=result())
    new = Side(name="b", artifact=None, result=result(**other))
    (made,) = compare([(target, base, new)], SETTINGS)
    assert (made.latency, made.outcome) == ((), "inconclusive")
    assert field in made.reason


def test_accuracy_fails_the_gate_even_where_latency_cannot_be_compared(target: Target) -> None:
    base = Side(name="a", artifact=None, result=result(images=1000))
    new = Side(name="b", artifact=None, result=result(images=1000, wrong=300, environment={**HERE, "cpu": "B"}))
    (made,) = compare([(target, base, new)], SETTINGS)
    assert made.outcome == "failed"
    assert "top-1 regressed" in made.reason
    assert "cpu was Some CPU and is B" in made.reason


def test_a_disturbed_result_decides_nothing(target: Target) -> None:
    busy = result(speed=speed(disturbed=("other processes used 62 % of the CPU, allowed 25 %",)))
    sides = (Side(name="a", artifact=None, result=result()), Side(name="b", artifact=None, result=busy))
    (made,) = compare([(target, *sides)], SETTINGS)
    assert (made.latency, made.outcome) == ((), "inconclusive")
    assert made.reason.endswith(
        "the measurement of b was disturbed: other processes used 62 % of the CPU, allowed 25 %"
    )


def test_threads_are_a_condition_too(target: Target) -> None:
    own = result()
    more = replace(own.target, runtime=replace(own.target.runtime, threads=2))
    base, new = (
        Side(name="a", artifact=None, result=own),
        Side(name="b", artifact=None, result=replace(own, target=more)),
    )
    (made,) = compare([(target, base, new)], SETTINGS)
    assert "[runtime] threads was 1 and is 2" in made.reason


def test_with_neither_artifact_nor_result_there_is_nothing_to_compare(target: Target) -> None:
    base = Side(name="a", artifact=None, result=result())
    new = Side(name="b.onnx", artifact=Path("b.onnx"), result=None)
    with pytest.raises(RunError, match=r"b\.onnx: neither both artifacts nor both results .* edgeoe validate b\.onnx"):
        compare([(target, base, new)], SETTINGS)


def test_predictions_on_the_same_images_are_paired(
    target: Target, duel: Callable[..., list[int]], tmp_path: Path
) -> None:
    duel(1.0)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    own: dict[str, Any] = {"artifact_sha256": file_sha256(path), "images": 1000}
    sides = two(path, base=result(wrong=50, **own), new=result(wrong=200, **own))
    (made,) = compare([(target, *sides)], SETTINGS)
    top1 = made.accuracy[0]
    assert (top1.subject, top1.images, top1.only_base, top1.only_new) == ("top-1", 1000, 150, 0)
    assert (top1.change, made.outcome) == ("regressed", "failed")
    assert {row.subject for row in made.accuracy[1:]} == {"square", "cross"}


def test_predictions_of_other_images_or_artifacts_are_not(
    target: Target, duel: Callable[..., list[int]], tmp_path: Path
) -> None:
    duel(1.0)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    own = result(artifact_sha256=file_sha256(path))
    assert own.predictions is not None
    elsewhere = replace(own, predictions=replace(own.predictions, test_sha256="2" * 64))
    (made,) = compare([(target, *two(path, base=own, new=elsewhere))], SETTINGS)
    assert (made.accuracy, made.notes) == ((), ("accuracy is not compared: the two were tested on different images",))
    (made,) = compare([(target, *two(path, base=own, new=result()))], SETTINGS)
    assert "are of another artifact" in made.notes[0]


def test_new_does_not_pass_by_saying_nothing_of_its_accuracy(target: Target) -> None:
    base = result(wrong=10)
    assert base.predictions is not None
    silent = result(wrong=90, predictions=None)
    elsewhere = result(wrong=90, predictions=replace(base.predictions, test_sha256="2" * 64))
    renamed = replace(base, classes=base.classes[::-1])
    for new in (silent, elsewhere, renamed):
        (made,) = compare([(target, *results_alone(base, new))], SETTINGS, stored=True)
        assert [change.change for change in made.latency] == ["no worse", "no worse"]
        assert (made.accuracy, made.outcome, made.reason) == ((), "inconclusive", made.notes[0])
    (made,) = compare([(target, *results_alone(silent, base))], SETTINGS, stored=True)
    assert made.outcome == "passed"  # base says nothing, so nothing was to be held


def test_a_side_is_a_run_a_result_an_artifact_or_a_baseline(target: Target, exported: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "baselines")
    with pytest.raises(RunError, match=r"nothing built for host-cpu\. Build: edgeoe build"):
        find_side(str(exported), target, store)
    run = Run.open(exported)
    artifact = exported / build(run, target).artifact
    assert find_side(str(exported), target, store).artifact == artifact
    assert find_side(str(artifact), target, store) == Side(name=str(artifact), artifact=artifact, result=None)
    own = result(artifact=artifact.name, artifact_sha256=file_sha256(artifact))
    write_result(artifact.with_name("r.json"), own)
    assert find_side(str(artifact.with_name("r.json")), target, store).artifact == artifact
    store.save("main", own, artifact)
    side = find_side("main", target, store)
    assert side.artifact is not None
    assert side.artifact.parent.name == "objects"


def test_a_result_that_is_not_of_the_artifact_beside_it_is_refused(target: Target, exported: Path) -> None:
    run = Run.open(exported)
    build(run, target)
    run.save(layout.TargetFiles("host-cpu").result, result())
    with pytest.raises(RunError, match="on another artifact than that of"):
        find_side(str(exported), target, Store(exported))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", "onnxruntime of target host-cpu runs .onnx files"),
        ("folder", "not a run, a result (.json) or an artifact"),
        ("nowhere/a.onnx", "not a run, a result (.json) or an artifact"),
        ("main", "no baseline 'main' for host-cpu"),
    ],
)
def test_what_is_no_side_is_refused(
    name: str, message: str, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError) as raised:
        find_side(name, target, Store(tmp_path / "baselines"))
    assert message in str(raised.value)


def test_a_result_of_another_target_is_refused(target: Target, tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", result())
    with pytest.raises(RunError, match="a result for host-cpu, not for t4"):
        find_side(str(tmp_path / "r.json"), replace(target, name="t4"), Store(tmp_path))


PI = {"machine": "aarch64", "board": "Raspberry Pi 5 Model B Rev 1.0", "cpu": "Cortex-A76", "versions": {}}


def on_pi(**changes: Any) -> Any:
    return result(**{"target": load_target("raspberry-pi-5"), "environment": PI, **changes})


def test_on_another_machine_than_the_device_nothing_is_measured(duel: Callable[..., list[int]]) -> None:
    """Both artifacts are at hand, but what the device measured of them is compared."""
    played = duel(1.0)
    base, new = two(Path("x.onnx"), base=on_pi(), new=on_pi(speed=speed(ms=4.0, seed=1)))
    (made,) = compare([(load_target("raspberry-pi-5"), base, new)], SETTINGS)
    assert (made.how, made.outcome, played) == ("stored", "failed", [])
    assert made.environment == PI


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("new", [None, {"speed": None}, {"environment": {"machine": "x86_64", "cpu": "A CPU"}}])
def test_without_a_latency_from_the_device_the_way_there_is_told(
    new: dict[str, Any] | None, stored: bool, duel: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "environment", lambda: {"machine": "x86_64", "cpu": "A CPU"})
    sides = two(Path("x.onnx"), base=on_pi(), **({} if new is None else {"new": on_pi(**new)}))
    with pytest.raises(RunError) as raised:
        compare([(load_target("raspberry-pi-5"), *sides)], SETTINGS, stored=stored)
    told = str(raised.value)
    if stored and (new is None or "speed" in new):
        assert told.startswith("new: neither both artifacts nor both results")
    else:
        assert told.startswith(
            "target raspberry-pi-5: not measured here: this is x86_64 (A CPU), raspberry-pi-5 is aarch64"
        )
        assert "edgeoe bundle RUN --target raspberry-pi-5 -o raspberry-pi-5.tar.gz --test DIR" in told


def test_a_run_does_not_change_while_it_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeoe.run.directory.PATIENCE_S", 0.1)
    run = Run(make_run(tmp_path / "a"))
    with unchanged_sides(str(run.path), str(tmp_path / "nowhere"), "main"), ThreadPoolExecutor(1) as other:
        with pytest.raises(RunError, match="in use by"):
            other.submit(run.forget).result()
        with Run(run.path).locked(shared=True):
            pass
    run.forget()
