"""What every method must do, whichever it is."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeoe.compute import new_fabric
from edgeoe.data.pool import load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.methods import Compressed
from edgeoe.models.pruning import count_macs, count_params
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.registry import METHODS, resolve
from edgeoe.settings import CompressSettings
from edgeoe.workbench import Workbench

SUITABLE: dict[str, dict[str, Any]] = {"none": {"keep_macs": 1.0}}  # settings that a method insists on
PREPROCESS = Preprocess(size=(16, 16), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))

every_method = pytest.mark.parametrize("method", sorted(METHODS))


@pytest.fixture(scope="module")
def teacher(settings: CompressSettings) -> nn.Module:
    return load_teacher(TeacherSource.parse(settings.teacher), settings.weights, classes=3)


@pytest.fixture(scope="module")
def pictures_folder(pictures: Path) -> Path:
    return pictures


def compressed(method: str, teacher: nn.Module, settings: CompressSettings, *, oe: bool) -> Compressed:
    """What `method` makes of `teacher`, with OOD images or without."""
    settings = replace(settings, method=method, oe=oe, **SUITABLE.get(method, {}))
    assert settings.ood is not None
    torch.manual_seed(settings.seed)
    bench = Workbench(
        teacher,
        load_samples(find_samples(settings.samples), PREPROCESS),
        load_pool(settings.ood, PREPROCESS) if oe else None,
        plan=replace(settings.oe_settings, holdout=0.0) if oe else None,
        fabric=new_fabric(settings),
        batch=settings.batch,
        padding=2,
        seed=settings.seed,
    )
    return resolve(METHODS, method, kind="method")(settings).compress(teacher, bench)  # type: ignore[no-any-return]


@every_method
@pytest.mark.parametrize("oe", [True, False], ids=["with OE", "without OE"])
def test_it_makes_a_student_with_the_macs_asked_for(
    method: str, oe: bool, teacher: nn.Module, settings: CompressSettings
) -> None:
    made = compressed(method, teacher, settings, oe=oe)
    student, keep = made.pruned.model, SUITABLE.get(method, {}).get("keep_macs", settings.keep_macs)
    macs = count_macs(student, PREPROCESS.shape) / count_macs(teacher, PREPROCESS.shape)
    assert macs == pytest.approx(keep, rel=0.02)
    assert made.pruned.macs_kept == pytest.approx(macs)
    assert made.pruned.params_kept == pytest.approx(count_params(student) / count_params(teacher))
    assert not any(module.training for module in student.modules())
    assert {tensor.device.type for tensor in student.state_dict().values()} == {"cpu"}
    logits = student(torch.randn(4, *PREPROCESS.shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 3)
    assert logits.isfinite().all()
    assert 0 <= made.fit.best_step <= made.fit.steps <= settings.steps


@every_method
def test_it_leaves_the_teacher_as_it_was(method: str, teacher: nn.Module, settings: CompressSettings) -> None:
    before = copy.deepcopy(teacher.state_dict())
    student = compressed(method, teacher, settings, oe=True).pruned.model
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    after = teacher.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    own = {tensor.data_ptr() for tensor in after.values()}
    assert not own & {tensor.data_ptr() for tensor in student.state_dict().values()}, "student and teacher share memory"


@every_method
def test_a_seed_makes_the_same_student_again(method: str, teacher: nn.Module, settings: CompressSettings) -> None:
    first, again = (compressed(method, teacher, settings, oe=True).pruned.model.state_dict() for _ in range(2))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_methods_that_train_differ_with_the_seed_and_with_oe(teacher: nn.Module, settings: CompressSettings) -> None:
    weights = [
        compressed("kd", teacher, replace(settings, seed=seed), oe=oe).pruned.model.state_dict()["head.weight"]
        for seed, oe in ((0, True), (1, True), (0, False))
    ]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
