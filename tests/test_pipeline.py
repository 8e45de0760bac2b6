"""The whole line on small real images."""

import json
from dataclasses import replace
from pathlib import Path

from made_up import QUICK

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
    for _ in range(2):
        list(deploy(settings, out=out, targets=[target], test=pictures / "test"))
        made = (out / "student" / "weights.safetensors").stat().st_mtime_ns
    again = (out / "student" / "weights.safetensors").stat().st_mtime_ns
    assert made == again
