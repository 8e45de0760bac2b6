"""The whole line on small real images."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import QUICK
from meters import count_instead

from edgeoe.errors import BackendError, DataError, EdgeoeError, RunError, TargetError
from edgeoe.pipeline import Bundled, Judged, deploy
from edgeoe.records.latency_table import FP32_TEACHER, TEACHER, LatencyTable
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.settings import run_settings
from edgeoe.settings import CompressSettings
from edgeoe.stages.latency_table import digest_of, keep_table
from edgeoe.stages.subject import load_subject, parts_for
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Budget, DeviceFacts, RuntimeSettings, Target


def test_deploy_leads_from_a_teacher_to_a_verdict(settings: CompressSettings, pictures: Path, tmp_path: Path) -> None:
    target = replace(load_target("host-cpu"), measure=QUICK, budget=Budget(size_mb=100, top1=0.0))
    out = tmp_path / "run"
    (one,) = deploy(replace(settings, keep_macs=0.5), out=out, targets=[target], test=pictures / "test")
    assert isinstance(one, Judged)
    assert one.run.path == out
    measurement, verdict = one.validation.measurement, one.validation.verdict
    assert verdict.outcome == "passed"
    assert [check.name for check in verdict.checks] == ["golden_agreement", "size_mb", "top1"]
    assert measurement.golden_agreement == 1.0
    assert measurement.speed is not None
    assert measurement.speed.latency.n >= QUICK.min_iterations
    record = json.loads((out / "compress.json").read_text())
    assert abs(record["macs_kept"] - 0.5) <= 0.01
    assert not list(tmp_path.glob(".*")), "temporary folders are left"


def test_deploy_keeps_a_student_made_with_the_same_settings(
    settings: CompressSettings, pictures: Path, tmp_path: Path
) -> None:
    target = replace(load_target("host-cpu"), measure=QUICK)
    out = tmp_path / "run"
    asked, other = replace(settings, channel_multiple=None), replace(target, name="other")
    made = []
    for targets in ([target], [target], [other, target]):  # whose widths are the same
        deploy(asked, out=out, targets=targets, test=pictures / "test")
        made.append((out / "student" / "weights.safetensors").stat().st_mtime_ns)
    assert len(set(made)) == 1
    changes: list[dict[str, Any]] = [
        {"settings": asked, "targets": [replace(other, channel_multiple=3)]},
        {"settings": replace(asked, seed=5), "targets": [target]},
        {"settings": replace(asked, channel_multiple=4), "targets": [target]},
        {"settings": replace(asked, method="practise"), "targets": [target]},
    ]
    for changed in changes:
        with pytest.raises(RunError, match="already holds a run"):
            deploy(**changed, out=out, test=pictures / "test")


def test_deploy_prunes_to_widths_that_all_targets_compute_fast_unless_a_multiple_is_named(
    settings: CompressSettings, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = replace(load_target("host-cpu"), measure=QUICK)
    targets = [replace(host, name=name, channel_multiple=multiple) for name, multiple in (("one", 4), ("two", 3))]
    monkeypatch.setattr("edgeoe.pipeline.validate", lambda *_, **__: (None, None))
    multiples = []
    for name, multiple in (("all", None), ("named", 2)):
        asked = replace(settings, channel_multiple=multiple)
        deploy(asked, out=tmp_path / name, targets=targets, test=pictures / "test")
        record = json.loads((tmp_path / name / "compress.json").read_text())
        multiples.append(record["channel_multiple"])
        assert [speed["target"] for speed in record["speed"]] == ["one", "two"]
    assert multiples == [12, 2]


def test_a_target_that_is_not_this_machine_ends_in_a_bundle(
    exported: Path, settings: CompressSettings, pictures: Path
) -> None:
    here = replace(load_target("host-cpu"), measure=QUICK)
    away = replace(here, name="away", device=DeviceFacts(cpu="No Such Processor"))
    jetson = replace(load_target("jetson-orin-nano"), channel_multiple=1)
    own = replace(settings, seed=1)  # those of the run, whose student is kept
    bundled, judged, plan = deploy(own, out=exported, targets=[away, here, jetson], test=pictures / "test")
    assert isinstance(judged, Judged)
    assert judged.outcome == "passed"
    for one in (bundled, plan):
        assert isinstance(one, Bundled)
        assert one.outcome == "inconclusive", "nothing was judged yet"
        assert one.bundle.test_images == 30
        archive = exported / f"targets/{one.target.name}/edgeoe-{one.target.name}.tar.gz"
        assert one.bundle.path == str(archive)
        assert Run.open(exported).file(layout.TargetFiles(one.target.name).archive) == archive
        with tarfile.open(archive) as opened:
            assert f"edgeoe-{one.target.name}/run.py" in opened.getnames()
    assert isinstance(bundled, Bundled)
    assert bundled.differs[0].endswith("away is for No Such Processor")
    assert not (exported / "targets/away/validation.json").exists()


HERE = Target(name="mine", backend="onnxruntime")


@pytest.mark.parametrize(
    ("target", "test", "error", "message"),
    [
        (replace(HERE, precision="fp16"), "test", TargetError, "onnxruntime computes fp16 graphs in fp32 on a CPU"),
        (
            replace(HERE, runtime=RuntimeSettings(provider="openvino")),
            "test",
            BackendError,
            "provider = 'openvino': this onnxruntime has",
        ),
        (HERE, "nowhere", DataError, "nowhere: no such folder"),
        (HERE, "ood", DataError, "no class .deep. among the labelled samples"),
    ],
)
def test_what_can_not_work_is_known_before_training(
    settings: CompressSettings,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: Target,
    test: str,
    error: type[EdgeoeError],
    message: str,
) -> None:
    def compress(*_: Any, **__: Any) -> None:
        pytest.fail("it trains")

    monkeypatch.setattr("edgeoe.pipeline.compress", compress)
    with pytest.raises(error, match=message):
        deploy(settings, out=tmp_path / "run", targets=[target], test=pictures / test)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Budgets are measured by counting; the names of the targets of each compression to a budget."""
    return count_instead(monkeypatch)


@pytest.fixture
def two() -> tuple[Target, Target]:
    """Two targets that are here, with budgets that no verdict of a few calls decides."""
    host = replace(load_target("host-cpu"), measure=QUICK)
    return replace(host, name="a", budget=Budget(p50_ms=0.3)), replace(host, name="b", budget=Budget(p50_ms=0.2))


def weights_of(*folders: Path) -> list[int]:
    return [(folder / "student" / "weights.safetensors").stat().st_mtime_ns for folder in folders]


def test_each_target_with_a_budget_gets_a_student_of_its_own_that_is_kept_until_its_limit_changes(
    settings: CompressSettings,
    pictures: Path,
    tmp_path: Path,
    metered: list[tuple[str, ...]],
    two: tuple[Target, Target],
) -> None:
    a, b = two
    line: dict[str, Any] = {"out": tmp_path / "out", "test": pictures / "test"}
    first, second = deploy(settings, targets=two, **line)
    assert metered == [("a",), ("b",)]
    folders = [tmp_path / "out" / "a", tmp_path / "out" / "b"]
    assert [first.run.path, second.run.path] == folders
    runs = [Run.open(folder) for folder in folders]
    assert [run_settings(run).target for run in runs] == [("a",), ("b",)]
    searches = [run.read(layout.COMPRESS).budget for run in runs]
    assert [search.student[0] <= search.limits[0].limit for search in searches if search] == [True, True]
    assert [search.limits[0].limit for search in searches if search] == [0.3, 0.2]
    made = weights_of(*folders)

    deploy(settings, targets=two, **line)
    assert weights_of(*folders) == made, "nothing has changed"

    tighter = replace(b, budget=Budget(p50_ms=0.15))
    with pytest.raises(RunError, match=r"b: already holds a run\. Choose another --out, or pass --overwrite"):
        deploy(settings, targets=(a, tighter), **line)
    deploy(settings, targets=(a, tighter), overwrite=True, **line)
    assert weights_of(folders[0]) == made[:1]
    assert weights_of(folders[1]) != made[1:]
    with pytest.raises(RunError, match="a: already holds a run"):
        deploy(replace(settings, latency_ms=0.2), targets=two, **line)
    with pytest.raises(RunError, match="a: already holds a run"):
        deploy(replace(settings, keep_macs=0.5), targets=two, out=folders[0], test=pictures / "test")


def test_the_table_of_each_device_elsewhere_must_be_there_before_the_first_student_is_trained(
    settings: CompressSettings, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compressed: list[tuple[str, ...]] = []

    def compress(settings: CompressSettings, **_: Any) -> None:
        compressed.append(settings.target)

    monkeypatch.setattr("edgeoe.pipeline.compress", compress)
    here = replace(load_target("host-cpu"), measure=QUICK, budget=Budget(p50_ms=0.2))
    away = replace(here, name="away", device=DeviceFacts(cpu="No Such Processor"))
    asked = replace(settings, channel_multiple=4)
    line: dict[str, Any] = {"targets": [here, away], "test": pictures / "test", "out": tmp_path / "out"}
    subject = load_subject(asked)
    variants = parts_for(subject, asked, away).variants()
    table = LatencyTable(
        network=digest_of(subject.teacher, subject.preprocess),
        target=away,
        environment={"cpu": "No Such Processor"},
        latencies_ms={FP32_TEACHER: 2.0, TEACHER: 1.0},
    )
    for latencies_ms in (None, table.latencies_ms):
        if latencies_ms:
            keep_table(table)
        with pytest.raises(TargetError, match=r"^target away: .*: edgeoe latency-table --target away -o away\.tar\.gz"):
            deploy(asked, **line)
    assert compressed == []
    assert not (tmp_path / "out").exists()

    keep_table(replace(table, latencies_ms={**table.latencies_ms, **dict.fromkeys(variants, 1.0)}))
    deploy(asked, **line)
    without = replace(away, name="free", budget=Budget(size_mb=1.0))
    deploy(asked, **{**line, "targets": [here, without]})
    deploy(replace(asked, keep_macs=0.5), **{**line, "targets": [here, replace(away, name="share")]})
    assert compressed == [("host-cpu",), ("away",), ("host-cpu",), ("free",), ("host-cpu", "share")]


def test_one_student_meets_all_budgets_where_that_is_asked_for(
    settings: CompressSettings,
    pictures: Path,
    tmp_path: Path,
    metered: list[tuple[str, ...]],
    two: tuple[Target, Target],
) -> None:
    line: dict[str, Any] = {"targets": two, "test": pictures / "test"}
    outcomes = deploy(settings, out=tmp_path / "one", one_student=True, **line)
    assert metered == [("a", "b")]
    assert {outcome.run.path for outcome in outcomes} == {tmp_path / "one"}
    search = Run.open(tmp_path / "one").read(layout.COMPRESS).budget
    assert search is not None
    assert [limit.limit for limit in search.limits] == [0.3, 0.2]
    assert max(search.student) <= 0.2
    with pytest.raises(RunError, match=r"one: holds a run, and a student for each target needs .*--one-student"):
        deploy(settings, out=tmp_path / "one", **line)


@pytest.mark.parametrize("asked", [{"latency_ms": 0.2}, {"speedup": 2.5}])
def test_a_verdict_judges_the_latency_that_was_asked_for(
    settings: CompressSettings,
    pictures: Path,
    tmp_path: Path,
    metered: list[tuple[str, ...]],
    two: tuple[Target, Target],
    asked: dict[str, Any],
) -> None:
    option = "--" + next(iter(asked)).replace("_", "-")
    bare = replace(two[0], budget=Budget())
    line: dict[str, Any] = {"out": tmp_path / "run", "test": pictures / "test"}
    stricter, wider = (replace(bare, budget=Budget(p50_ms=limit)) for limit in (0.01, 7.0))
    for target, limit, origin in ((bare, 0.2, option), (wider, 0.2, option), (stricter, 0.01, "")):
        (outcome,) = deploy(replace(settings, **asked), targets=[target], **line)
        assert isinstance(outcome, Judged)
        check = outcome.validation.verdict.checks[-1]
        assert (check.name, check.origin) == ("p50_ms", origin)
        assert check.limit == pytest.approx(limit)
        assert outcome.validation.target.budget == {"p50_ms": pytest.approx(limit)}
    assert metered == [("a",)], "a limit of the profile that options replace makes no other student"
    with pytest.raises(RunError, match="already holds a run"):
        deploy(replace(settings, **{name: value * 2 for name, value in asked.items()}), targets=[bare], **line)
