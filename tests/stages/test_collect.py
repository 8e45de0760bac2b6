"""What a device sends is judged by what the run knows, and refused, field by field, where it contradicts that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import QUICK, as_bundled, speed

from edgeoe.errors import RunError
from edgeoe.pipeline import build, bundle, collect, export, validate
from edgeoe.records.budget import BudgetSearch, Limit
from edgeoe.records.result import Predictions
from edgeoe.report.json import validation_json
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.result_file import write_result
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Budget, DeviceFacts, Target


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=QUICK, budget=Budget(top1=0.99))


@pytest.fixture
def run(exported: Path, target: Target, pictures: Path, tmp_path: Path) -> Run:
    """A run with a bundle of `target` and its test images."""
    opened = Run.open(exported)
    bundle(opened, target, out=tmp_path / "b.tar", test=pictures / "test")
    return opened


@pytest.fixture
def sent(run: Run, tmp_path: Path) -> Callable[..., Path]:
    """`sent(changes...)`: the file of a result as the bundle might have written it, but for these fields."""

    def write(**changes: Any) -> Path:
        write_result(tmp_path / "result.json", replace(as_bundled(run), **changes))
        return tmp_path / "result.json"

    return write


def test_what_the_bundle_wrote_is_judged(run: Run, sent: Callable[..., Path], target: Target) -> None:
    validation = collect(run, sent())
    measurement = validation.measurement
    assert (validation.target, validation.outcome) == (target, "failed")
    assert measurement.accuracy is not None
    assert measurement.accuracy.top1.value == 0.5
    assert (run.path / "targets/host-cpu/validation.json").is_file()


def test_the_latency_that_the_student_was_made_to_is_judged_unless_the_profile_is_stricter(
    run: Run, sent: Callable[..., Path], target: Target
) -> None:
    limits = (
        Limit("host-cpu", "p50_ms", 1e-3, origin="--latency-ms"),
        Limit("other", "p90_ms", 1e-3, origin="--latency-ms"),
        Limit("host-cpu", "size_mb", 1e-3),
    )
    search = BudgetSearch(limits=limits, teacher=(9.0,) * 3, rounds=(), student=(1e-3,) * 3, loss=0.1)
    run.save(layout.COMPRESS, replace(run.read(layout.COMPRESS), budget=search))
    checks = collect(run, sent()).verdict.checks
    assert [(check.name, check.limit, check.origin) for check in checks[-2:]] == [
        ("p50_ms", 1e-3, "--latency-ms"),
        ("top1", 0.99, ""),
    ]
    for own, limit, origin in ((9e9, 1e-3, "--latency-ms"), (1e-4, 1e-4, "")):
        profile = replace(target, budget=Budget(p50_ms=own))
        (check,) = (one for one in collect(run, sent(), target=profile).verdict.checks if one.name == "p50_ms")
        assert (check.limit, check.origin) == (limit, origin)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target": {"budget": Budget()}}, "target.budget.top1 is not set, but in the latest bundle"),
        ({"target": {"budget": Budget(top1=0.1)}}, "target.budget.top1 is 0.1, but in"),
        ({"target": {"precision": "int8"}}, "target.precision is int8, but in"),
        ({"target": {"device": DeviceFacts(gpu="T4")}}, "target.device.gpu is T4, but in"),
        ({"target": {"measure": replace(QUICK, batch=7)}}, "target.measure.batch is 7, but in"),
        ({"classes": ("circle", "square", "cross")}, "classes is ('circle', 'square', 'cross'), but in"),
        ({"rare": (0,)}, "rare is (0,), but in"),
        ({"artifact": "other.onnx"}, "artifact is other.onnx, but in"),
        ({"artifact_sha256": "f" * 64}, f"artifact_sha256 is {'f' * 64}, but in"),
        ({"size_bytes": 1}, "size_bytes is 1, but in"),
        ({"golden_agreement": None}, "golden_agreement is not set, but in"),
        ({"golden_agreement": 7.0}, "not a result of this version of edgeoe (golden_agreement: expected at most 1"),
        ({"predictions": None}, "predictions is missing, but in"),
        ({"speed": speed(processes=3)}, "speed.calls_ms is of 3 processes, but in"),
        ({"speed": speed(processes=2, batch=4, throughput_ips={4: (1.0, 1.0)})}, "speed.batch is 4, but in"),
        ({"speed": speed(processes=2, calls_ms=((1.0,), (1.0,)))}, "speed.calls_ms is of 1 calls in a process, but in"),
        (
            {"speed": speed(processes=2, throughput_ips={1: (1.0, 1.0), 8: (1.0, 1.0)})},
            "speed.throughput_ips is at batches [1, 8], but",
        ),
    ],
)
def test_a_difference_is_refused_by_its_field(
    run: Run, sent: Callable[..., Path], target: Target, changes: dict[str, Any], told: str
) -> None:
    if "target" in changes:
        changes = {"target": replace(target, **changes["target"])}
    path = sent(**changes)
    with pytest.raises(RunError) as raised:
        collect(run, path)
    assert str(raised.value).startswith(f"{path}: {told}")
    assert not (run.path / "targets/host-cpu/result.json").exists()
    assert not (run.path / "targets/host-cpu/validation.json").exists()


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda seen: replace(seen, labels=seen.chosen), "predictions.labels is of other labels"),
        (
            lambda seen: replace(seen, chosen=seen.chosen[:9], labels=seen.labels[:9]),
            "predictions.labels is of 9 image",
        ),
        (lambda seen: replace(seen, test_sha256="1" * 64), "predictions.test_sha256 is 1111"),
    ],
)
def test_predictions_of_other_images_or_labels_are_refused(
    run: Run, sent: Callable[..., Path], spoil: Callable[[Predictions], Predictions], field: str
) -> None:
    seen = as_bundled(run).predictions
    assert seen is not None
    with pytest.raises(RunError, match=rf"result\.json: {field}"):
        collect(run, sent(predictions=spoil(seen)))


def test_predictions_that_were_not_asked_for_are_refused(run: Run, sent: Callable[..., Path], target: Target) -> None:
    seen = as_bundled(run).predictions
    bundle(run, target, out=run.path / "b.tar")
    with pytest.raises(RunError, match=r"predictions is there, but in the latest bundle .* it is missing"):
        collect(run, sent(predictions=seen))


def test_the_teachers_own_predictions_are_of_those_images(run: Run, sent: Callable[..., Path], pictures: Path) -> None:
    """What the bundle's facts promise of the test images is what predicting on them says."""
    target = load_target("host-cpu")
    with_test = replace(target, measure=QUICK)
    build(run, with_test)
    validate(run, with_test, test=pictures / "test")
    seen = json.loads((run.path / "targets/host-cpu/result.json").read_text())["predictions"]
    facts = json.loads((run.path / "targets/host-cpu/bundle.json").read_text())["test"]
    assert (seen["test_sha256"], len(seen["labels"])) == (facts["test_sha256"], facts["images"])


def test_a_latency_of_another_machine_is_not_judged_as_the_devices(
    run: Run, target: Target, pictures: Path, tmp_path: Path
) -> None:
    pi = replace(target, name="pi", budget=Budget(p50_ms=1e6), device=DeviceFacts(board="raspberry-pi-5"))
    bundle(run, pi, out=tmp_path / "pi.tar", test=pictures / "test")
    there = {"machine": "aarch64", "board": "Raspberry Pi 5 Model B Rev 1.0", "versions": {}}
    for facts, outcome in ((there, "passed"), ({**there, "machine": "x86_64"}, "inconclusive")):
        write_result(tmp_path / "pi.json", replace(as_bundled(run, "pi"), environment=facts))
        assert collect(run, tmp_path / "pi.json").outcome == outcome
    record = validation_json(run.read(layout.TargetFiles("pi").validation))
    assert (record["latency_ms"], record["verdict"]) == (None, "inconclusive")
    assert record["not_measured"] == "not measured here: this is x86_64, pi is aarch64"


def test_a_result_of_an_earlier_bundle_is_not_collected(run: Run, sent: Callable[..., Path], target: Target) -> None:
    path = sent()
    bundle(run, target, out=run.path / "later.tar")
    with pytest.raises(RunError, match=r"not from the latest bundle of .* for host-cpu"):
        collect(run, path)


def test_a_bundle_of_another_edgeoe_is_to_be_made_again(run: Run, sent: Callable[..., Path]) -> None:
    path = sent()
    bundled = layout.TargetFiles("host-cpu").bundle
    run.save(replace(bundled, format=1), run.read(bundled))
    with pytest.raises(
        RunError,
        match=r"bundle\.json: not in the format of this version of edgeoe .*Make it again: edgeoe bundle .*host-cpu",
    ):
        collect(run, path)


def test_another_profiles_budget_may_judge(run: Run, sent: Callable[..., Path], target: Target) -> None:
    strict, loose = (replace(target, budget=Budget(size_mb=size)) for size in (1e-6, 1e6))
    assert collect(run, sent(), target=strict).outcome == "failed"
    assert collect(run, sent(), target=loose).outcome == "passed"
    with pytest.raises(RunError, match="a result for host-cpu, not for t4"):
        collect(run, sent(), target=replace(target, name="t4"))


def test_a_drop_that_nobody_can_tell_says_what_helps(run: Run, sent: Callable[..., Path], target: Target) -> None:
    validation = collect(run, sent(), target=replace(target, budget=Budget(max_drop=0.1)))
    measurement, verdict = validation.measurement, validation.verdict
    assert measurement.drop is None
    assert verdict.outcome == "inconclusive"
    assert "bundle again with --test and max_drop in [budget]" in verdict.checks[-1].reason


def test_a_plan_that_was_built_there_may_have_any_hash(run: Run, tmp_path: Path) -> None:
    target = replace(load_target("jetson-orin-nano"), measure=QUICK)
    export(run, precisions=["fp32", "fp16"])
    bundle(run, target, out=tmp_path / "jetson.tar")
    there = {"machine": "aarch64", "board": "NVIDIA Jetson Orin Nano Developer Kit", "versions": {}}
    own = replace(as_bundled(run, target.name), artifact="model.plan", artifact_sha256="a" * 64, environment=there)
    write_result(tmp_path / "jetson.json", own)
    assert collect(run, tmp_path / "jetson.json").outcome == "passed"
    write_result(tmp_path / "jetson.json", replace(own, classes=("a", "b", "c")))
    with pytest.raises(RunError, match=r"jetson\.json: classes is"):
        collect(run, tmp_path / "jetson.json")
