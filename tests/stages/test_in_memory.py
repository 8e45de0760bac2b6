"""A teacher that is a network in memory: the run made of it stands alone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layers import layer_of
from made_up import QUICK
from torch import Tensor, nn

import edgeoe
from edgeoe.errors import ConfigError, RunError, TeacherError
from edgeoe.models.checkpoint import load_kept_teacher, load_student
from edgeoe.models.teacher import TeacherSource
from edgeoe.records.measurement import Validation
from edgeoe.run import layout
from edgeoe.settings import CompressSettings

FRESH = """
import json, sys, torch
from edgeoe.models.checkpoint import load_student
from edgeoe.run.directory import Run
assert "timm" not in sys.modules and "networks" not in sys.modules
print(json.dumps(load_student(Run(sys.argv[1]))(torch.linspace(0, 1, 1536).view(2, 3, 16, 16)).tolist()))
"""


class Mine(nn.Module):
    """No file that is copied holds this class."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 8, 1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.body(x).mean((2, 3)))}


def given(settings: CompressSettings) -> dict[str, Any]:
    """Those settings without a teacher."""
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: value for name, value in fields.items() if name not in ("teacher", "weights")}


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return Mine().train()


@pytest.fixture
def target() -> edgeoe.Target:
    return dataclasses.replace(
        edgeoe.load_target("host-cpu"), measure=QUICK, budget=edgeoe.Budget(size_mb=100, max_drop=1.0)
    )


def test_a_network_in_memory_goes_the_whole_line(
    settings: CompressSettings,
    teacher: nn.Module,
    target: edgeoe.Target,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    out = tmp_path / "run"
    line = {**given(settings), "out": out, "test": pictures / "test", "target": target, "keep_macs": 0.5}
    (judged,) = edgeoe.deploy(teacher=teacher, **line)
    assert isinstance(judged, edgeoe.Judged)
    assert isinstance(judged.validation, Validation)
    assert judged.validation.measurement.drop is not None, "the teacher's predictions come from the run"
    assert judged.validation.measurement.golden_agreement == 1.0
    assert teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())

    run = edgeoe.Run.open(out)
    student = load_student(run)
    x = torch.linspace(0, 1, 1536).view(2, 3, 16, 16)
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH, str(out)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(edgeoe.__file__).parents[1])},
    )  # fmt: skip
    torch.testing.assert_close(torch.tensor(json.loads(fresh.stdout)), student(x))
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in teacher.parameters())
    kept = load_kept_teacher(run)
    assert kept is not None
    torch.testing.assert_close(kept(x), teacher.eval()(x)["logits"])
    assert not [path for path in out.rglob("*") if path.suffix in (".pt", ".pt2", ".pkl", ".pth")]

    (recorded,) = [line for line in (out / "config.toml").read_text().splitlines() if line.startswith("teacher")]
    assert recorded.startswith('teacher = "module:Mine:')
    monkeypatch.setattr("edgeoe.pipeline.compress", lambda *_, **__: pytest.fail("it trains again"))
    edgeoe.deploy(teacher=teacher, **line)
    with torch.no_grad():
        layer_of(teacher, "head").bias += 1
    with pytest.raises(pytest.fail.Exception, match="it trains again"):
        edgeoe.deploy(teacher=teacher, overwrite=True, **line)


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5"])
def test_published_networks_in_memory_are_exported_by_either_exporter(
    settings: CompressSettings,
    network: Callable[[str], nn.Module],
    tmp_path: Path,
    name: str,
    exporter: Any,
) -> None:
    preprocess = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    changed = {**given(settings), "preprocess": preprocess, "steps": 1, "method": "kd"}
    run = edgeoe.compress(teacher=network(name), out=tmp_path / "run", **changed)
    assert run is not None
    record = edgeoe.export(run, exporter=exporter)
    assert (record.exporter, record.agreement) == (exporter, 1.0)


def test_timm_networks_know_their_preprocessing(network: Callable[[str], nn.Module]) -> None:
    model = network("timm:test_resnet")
    of_object = TeacherSource.in_memory(model).preprocess(model)
    assert of_object == TeacherSource.parse("timm:test_resnet").preprocess(model)
    assert TeacherSource.in_memory(Mine()).preprocess(Mine()) is None


class Branching(Mine):
    def forward(self, x: Tensor) -> Any:
        x = self.body(x).mean((2, 3))
        return self.head(x) if float(x.sum()) > 0 else self.head(2 * x)


def test_what_can_not_go_along_is_known_before_training(settings: CompressSettings, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"--teacher module:Branching: a network in memory goes along .*FILE"):
        edgeoe.compress(teacher=Branching(), out=tmp_path / "run", **given(settings))
    assert not (tmp_path / "run").exists()


def test_a_network_has_its_own_weights_and_one_process(settings: CompressSettings, tmp_path: Path) -> None:
    for wrong, message in (({"weights": "random"}, "has its own weights"), ({"processes": 2}, "by one process")):
        with pytest.raises(ConfigError, match=message):
            edgeoe.compress(teacher=Mine(), out=tmp_path / "run", **{**given(settings), **wrong})


def test_inspect_takes_a_network(teacher: nn.Module) -> None:
    record = edgeoe.inspect(teacher, preprocess={"size": (16, 16), "mean": [0.5] * 3, "std": [0.5] * 3})
    assert record.teacher == "module:Mine"
    assert ("body.3",) in [group.layers for group in record.groups if not group.refused]
    assert teacher.training


def test_the_command_line_can_not_bring_it_back(settings: CompressSettings, tmp_path: Path) -> None:
    for name in ("module:Mine", "module:Mine:0123456789abcdef"):
        with pytest.raises(TeacherError, match=r"Pass it again, in Python: edgeoe\.compress\(teacher=network"):
            edgeoe.compress(dataclasses.replace(settings, teacher=name), out=tmp_path / "run")


def test_a_changed_program_is_refused(settings: CompressSettings, teacher: nn.Module, tmp_path: Path) -> None:
    run = edgeoe.compress(teacher=teacher, out=tmp_path / "run", **{**given(settings), "steps": 1})
    assert run is not None
    (run.path / layout.STUDENT_PROGRAM.name).write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="changed since edgeoe wrote it"):
        load_student(run)
    run.note(layout.STUDENT_PROGRAM)
    with pytest.raises(RunError, match="not in the format of this version of edgeoe"):
        load_student(run)
    (run.path / layout.STUDENT_PROGRAM.name).unlink()
    with pytest.raises(RunError, match="missing"):
        load_student(run)
