"""An interrupted training goes on where it was, and ends with the same weights, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgeoe.data.pool import Pool, load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import Samples, find_samples, load_samples
from edgeoe.methods import TrainingTask, View
from edgeoe.methods.recoveries.distillation import distillation
from edgeoe.models.teacher import TeacherSource
from edgeoe.run import saved_work
from edgeoe.run.saved_work import SavedWork
from edgeoe.settings import OESettings
from edgeoe.training.workbench import Workbench

PREPROCESS = Preprocess(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
PLAN = OESettings(holdout=0.5, check_every=2, patience=3)
STEPS = 9


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def images(pictures: Path) -> tuple[Samples, Pool]:
    samples = load_samples(find_samples(pictures / "train"), PREPROCESS)
    return samples, load_pool(pictures / "ood", PREPROCESS)


@pytest.fixture(scope="module")
def teacher(teacher_file: Path) -> nn.Module:
    torch.manual_seed(0)
    return TeacherSource.parse(f"{teacher_file}:chain").build(3).eval().requires_grad_(False)


def apart(student: View, teacher: View) -> Tensor:
    return distillation(student.logits, teacher.logits, temperature=4.0)


def trained(
    teacher: nn.Module,
    images: tuple[Samples, Pool],
    work: SavedWork,
    *,
    plan: OESettings | None = PLAN,
    lr: float = 0.05,
    killed_after: int = STEPS,
) -> tuple[dict[str, Tensor], object, list[int]]:
    """The weights of a student, how training went, and at which steps the bar advanced."""
    advanced: list[int] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[object]:
        def advance() -> None:
            advanced.append(len(advanced) + 1)
            if len(advanced) > killed_after:
                raise KilledError

        yield advance

    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    bench = Workbench(
        teacher,
        lambda: images,
        shape=PREPROCESS.shape,
        plan=plan,
        fabric=fabric,
        batch=8,
        padding=2,
        work=work,
        progress=progress,  # type: ignore[arg-type]
    )
    student = copy.deepcopy(teacher).requires_grad_(True)
    fit = bench.fit(student, TrainingTask(name="Fitting", distance=apart, lr=lr, max_steps=STEPS, label_weight=1.0))
    return student.state_dict(), (fit.steps, fit.best_step, fit.agreement), advanced


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@examples(max_examples=8)
@given(kills=st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=3), oe=st.booleans())
def test_a_training_that_is_killed_at_any_steps_ends_as_one_that_is_not(
    kills: list[int],
    oe: bool,
    teacher: nn.Module,
    images: tuple[Samples, Pool],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("work") / ".a.resume"
    plan = PLAN if oe else None
    expected, went, _ = trained(teacher, images, SavedWork(), plan=plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_work, "EVERY_S", 0.0)
        for killed_after in kills:
            with suppress(KilledError):  # early stopping may come before
                trained(teacher, images, SavedWork.open(folder, dict), plan=plan, killed_after=killed_after)
            torch.manual_seed(killed_after)  # another process has another random state
        weights, went_on, _ = trained(teacher, images, SavedWork.open(folder, dict), plan=plan)
    assert same(weights, expected)
    assert went_on == went


def test_it_says_where_it_goes_on(
    teacher: nn.Module,
    images: tuple[Samples, Pool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(saved_work, "EVERY_S", 0.0)
    with pytest.raises(KilledError):
        trained(teacher, images, SavedWork.open(tmp_path / "w", dict), plan=None, killed_after=5)
    _, _, advanced = trained(teacher, images, SavedWork.open(tmp_path / "w", dict), plan=None)
    assert caplog.messages == ["Fitting: goes on at step 5 of 9."]
    assert advanced == [*range(1, STEPS + 1)]


def test_another_training_begins_at_its_first_step(
    teacher: nn.Module,
    images: tuple[Samples, Pool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(saved_work, "EVERY_S", 0.0)
    with pytest.raises(KilledError):
        trained(teacher, images, SavedWork.open(tmp_path / "w", dict), killed_after=5)
    weights, _, _ = trained(teacher, images, SavedWork.open(tmp_path / "w", dict), lr=0.01)
    assert not caplog.messages
    assert same(weights, trained(teacher, images, SavedWork(), lr=0.01)[0])
