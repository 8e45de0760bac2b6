"""compress writes a run that stands alone, whichever method made the student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from edgeoe.data.pool import load_pool
from edgeoe.errors import DataError
from edgeoe.models.checkpoint import load_student
from edgeoe.models.pruning import count_macs
from edgeoe.pipeline import compress, export
from edgeoe.run import Run
from edgeoe.settings import CompressSettings
from edgeoe.stages import clock
from edgeoe.stages.facts import run_facts


@pytest.fixture
def asked(
    settings: CompressSettings,
    network: Callable[[str], nn.Module],
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> CompressSettings:
    """Settings with a teacher of residual blocks, and a clock that is quick."""
    monkeypatch.setattr(clock, "_SECONDS", 0.0)
    save_model(network("stages"), str(tmp_path / "stages.safetensors"))
    weights = tmp_path / "stages.safetensors"
    return replace(
        settings, teacher=f"{teacher_file}:stages", weights=weights, keep_macs=0.6, recovery_steps=1, steps=2
    )


@pytest.mark.parametrize("method", ["fskd", "mir", "practise"])
def test_a_run_holds_the_student_and_what_became_of_the_teacher(
    method: str, asked: CompressSettings, network: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    run = compress(replace(asked, method=method), out=tmp_path / "run")
    assert run is not None
    record = run.read_record("compress.json", made_by="compress")
    student, shape = load_student(run), (3, 16, 16)
    assert record["method"] == method
    assert record["macs"] == count_macs(student, shape)
    assert record["macs_kept"] == pytest.approx(count_macs(student, shape) / count_macs(network("stages"), shape))
    assert record["steps"] == (0 if method == "fskd" else 2)
    plan = run.read_record("student/plan.json", made_by="compress")
    assert bool(plan["dropped"]) == (method == "practise")
    assert bool(plan["removed"]) == (method != "practise")
    for name in plan["dropped"]:
        assert isinstance(student.get_submodule(name), nn.Identity)
    assert export(run).agreement == 1.0


def test_without_any_labelled_sample_the_classes_are_enough(asked: CompressSettings, tmp_path: Path) -> None:
    for name in ("circle", "cross", "square"):
        (tmp_path / "names" / name).mkdir(parents=True)
    run = compress(replace(asked, samples=tmp_path / "names"), out=tmp_path / "run")
    assert run is not None
    facts = run_facts(Run.open(tmp_path / "run"))
    assert facts.counts == (0, 0, 0)
    assert asked.ood is not None
    probe = run.read_tensors("probe.safetensors", made_by="compress")["pixels"]
    assert (probe == load_pool(asked.ood, facts.preprocess).images.rows(range(32))).all()
    with torch.no_grad():
        assert load_student(run)(torch.from_numpy(facts.preprocess.normalise(probe))).isfinite().all()


def test_without_samples_and_without_ood_images_there_is_nothing_to_go_by(
    asked: CompressSettings, tmp_path: Path
) -> None:
    for name in ("circle", "cross", "square"):
        (tmp_path / "names" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="names: no images"):
        compress(replace(asked, samples=tmp_path / "names", oe=False), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
