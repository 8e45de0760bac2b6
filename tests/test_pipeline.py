"""The whole line on small real images."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import QUICK

from edgeoe.errors import RunError
from edgeoe.pipeline import deploy
from edgeoe.records import Budget
from edgeoe.settings import CompressSettings
from edgeoe.targets import load_target


def test_deploy_leads_from_a_teacher_to_a_verdict(settings: CompressSettings, pictures: Path, tmp_path: Path) -> None:
    target = replace(load_target("host-cpu"), measure=QUICK, budget=Budget(size_mb=100, top1=0.0))
    out = tmp_path / "run"
    (one,) = deploy(settings, out=out, targets=[target], test=pictures / "test")
    _, measurement, verdict = one
    assert verdict.outcome == "passed"
    assert [check.name for check in verdict.checks] == ["golden_agreement", "size_mb", "top1"]
    assert measurement.golden_agreement == 1.0
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
        list(deploy(asked, out=out, targets=targets, test=pictures / "test"))
        made.append((out / "student" / "weights.safetensors").stat().st_mtime_ns)
    assert len(set(made)) == 1
    for changed in (
        {"settings": asked, "targets": [replace(other, channel_multiple=3)]},
        {"settings": replace(asked, seed=5), "targets": [target]},
        {"settings": replace(asked, channel_multiple=4), "targets": [target]},
        {"settings": replace(asked, method="practise"), "targets": [target]},
    ):
        with pytest.raises(RunError, match="already holds a run"):
            list(deploy(**changed, out=out, test=pictures / "test"))


def test_deploy_prunes_to_widths_that_all_targets_compute_fast_unless_a_multiple_is_named(
    settings: CompressSettings, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = replace(load_target("host-cpu"), measure=QUICK)
    targets = [replace(host, name=name, channel_multiple=multiple) for name, multiple in (("one", 4), ("two", 3))]
    monkeypatch.setattr("edgeoe.pipeline.validate", lambda *_, **__: (None, None))
    multiples = []
    for name, multiple in (("all", None), ("named", 2)):
        asked = replace(settings, channel_multiple=multiple)
        list(deploy(asked, out=tmp_path / name, targets=targets, test=pictures / "test"))
        record = json.loads((tmp_path / name / "compress.json").read_text())
        multiples.append(record["channel_multiple"])
        assert [speed["target"] for speed in record["speed"]] == ["one", "two"]
    assert multiples == [12, 2]
