"""Batches and the one training loop."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgeoe.data.images import Images
from edgeoe.data.pool import Pool, load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import Samples, find_samples, load_samples
from edgeoe.errors import DataError
from edgeoe.methods import Imitation, Stage
from edgeoe.methods.kd import distillation
from edgeoe.models.teacher import TeacherSource
from edgeoe.settings import OESettings
from edgeoe.workbench import Batch, Workbench

PREPROCESS = Preprocess(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
PLAN = OESettings(holdout=0.0)
WATCHED = OESettings(holdout=0.5, check_every=2, patience=2)  # holds out 30 of the 60 pictures


@pytest.fixture(scope="module")
def samples(pictures: Path) -> Samples:
    return load_samples(find_samples(pictures / "train"), PREPROCESS)


@pytest.fixture(scope="module")
def pool(pictures: Path) -> Pool:
    return load_pool(pictures / "ood", PREPROCESS)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


@pytest.fixture
def teacher(teacher_file: Path) -> nn.Module:
    torch.manual_seed(0)
    return TeacherSource.parse(f"{teacher_file}:chain").build(3).eval().requires_grad_(False)


@pytest.fixture
def bench(teacher: nn.Module, samples: Samples, pool: Pool, fabric: Fabric) -> Any:
    """`bench(plan, **changes)`: a workbench with these parts."""

    def make(plan: OESettings | None, *, samples: Samples = samples, pool: Pool = pool, **changes: Any) -> Workbench:
        return Workbench(teacher, samples, pool, plan=plan, **{"fabric": fabric, "batch": 8, "padding": 2, **changes})

    return make


def batches(bench: Workbench, steps: int) -> list[Batch]:
    return list(bench._batches(steps))


def stage(bench: Workbench, steps: int, **changes: Any) -> Stage:
    """Distillation, as the plain method has it."""

    def imitate(student: nn.Module, x: Tensor) -> Imitation:
        logits, expected = student(x).float(), bench.teach(x)
        return Imitation(distillation(logits, expected, temperature=4.0), logits, expected)

    return Stage(**{"name": "test", "imitate": imitate, "lr": 0.02, "max_steps": steps, **changes})


# Batches


def test_without_a_plan_a_batch_has_only_samples(bench: Any) -> None:
    for batch in batches(bench(None), 5):
        assert batch.x.shape == (8, 3, 16, 16)
        assert batch.samples == len(batch.y) == 8


def test_with_a_plan_a_batch_has_both(bench: Any) -> None:
    for batch in batches(bench(replace(PLAN, ood_batch=5)), 5):
        assert batch.x.shape == (13, 3, 16, 16)
        assert batch.samples == 8
        assert len(batch.y) == 13


def test_there_are_as_many_ood_rows_as_samples_unless_told(bench: Any) -> None:
    assert batches(bench(PLAN), 1)[0].x.shape == (16, 3, 16, 16)


def test_without_augmentation_rows_are_the_normalised_images(bench: Any, samples: Samples, pool: Pool) -> None:
    made = bench(PLAN, padding=0, flip=False)
    known = {
        name: images.preprocess.normalise(images.rows(range(len(images))))
        for name, images in (("samples", samples.images), ("pool", pool.images))
    }
    for batch in batches(made, 3):
        for row, (x, y) in enumerate(zip(batch.x.numpy(), batch.y.tolist(), strict=True)):
            among = known["samples" if row < batch.samples else "pool"]
            same = [i for i, image in enumerate(among) if np.allclose(image, x, atol=1e-5)]
            assert len(same) == 1
            assert row >= batch.samples or samples.labels[same[0]] == y


def test_a_crop_is_a_shifted_picture_on_black(bench: Any) -> None:
    black = PREPROCESS.normalise(np.zeros((1, 3, 16, 16), np.uint8))[0]
    made, plain = (batches(bench(None, flip=False, padding=padding), 1)[0].x.numpy() for padding in (2, 0))
    offsets = bench(None, flip=False, padding=2)._sampler.draw(0).offsets.tolist()
    assert len(set(map(tuple, offsets))) > 3
    for cropped, whole, (top, left) in zip(made, plain, offsets, strict=True):
        canvas = np.pad(whole, ((0, 0), (2, 2), (2, 2)), constant_values=np.nan)
        expected = canvas[:, top : top + 16, left : left + 16]
        np.testing.assert_allclose(cropped, np.where(np.isnan(expected), black, expected), atol=1e-5)


def test_half_of_the_rows_are_mirrored(bench: Any) -> None:
    made, plain = (batches(bench(None, flip=flip, padding=0), 4) for flip in (True, False))
    mirrored = []
    for one, other in zip(made, plain, strict=True):
        for row, whole in zip(one.x, other.x, strict=True):
            mirrored.append(torch.allclose(row, whole.flip(2), atol=1e-5))
            assert mirrored[-1] or torch.allclose(row, whole, atol=1e-5)
    assert 4 < sum(mirrored) < 28  # of 32


def test_labels_of_ood_rows_are_drawn_anew_each_step(bench: Any, pool: Pool) -> None:
    one_picture = bench(replace(PLAN, ood_batch=40), pool=Pool(Images(pool.images.paths[:1], PREPROCESS)))
    drawn = [batch.y[batch.samples :] for batch in batches(one_picture, 4)]
    assert not any(torch.equal(a, b) for a, b in pairwise(drawn))
    times = torch.bincount(torch.cat(drawn), minlength=3)
    assert times.argsort().tolist() == [0, 1, 2], "the rarer a class is among the samples, the oftener"


def test_batches_follow_from_the_seed(bench: Any) -> None:
    first, again, other = (batches(bench(PLAN, seed=seed), 3) for seed in (4, 4, 5))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
        assert not torch.equal(a.x, c.x)


def test_streamed_and_remembered_images_make_equal_batches(bench: Any, samples: Samples, pool: Pool) -> None:
    streamed = [Images(part.paths, PREPROCESS, memory_bytes=0) for part in (samples.images, pool.images)]
    assert streamed[0].memory is None
    assert pool.images.memory is not None
    made = bench(PLAN, samples=replace(samples, images=streamed[0]), pool=Pool(streamed[1]))
    for a, b in zip(batches(bench(PLAN), 3), batches(made, 3), strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


def test_an_image_that_vanishes_meanwhile_is_named(bench: Any, samples: Samples, tmp_path: Path) -> None:
    kept = tmp_path / "kept.png"
    kept.write_bytes(samples.images.paths[0].read_bytes())
    streamed = Images([kept] * len(samples.labels), PREPROCESS, memory_bytes=0)
    made = bench(None, samples=replace(samples, images=streamed))
    kept.unlink()
    with pytest.raises(DataError, match=r"kept\.png: can't be read as an image"):
        batches(made, 2)


# The teacher


def test_teach_answers_without_a_gradient(bench: Any, teacher: nn.Module) -> None:
    x = torch.randn(4, 3, 16, 16, requires_grad=True)
    logits = bench(None).teach(x)
    assert not logits.requires_grad
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, teacher(x).detach(), rtol=1e-4, atol=1e-5)


def test_the_workbench_keeps_a_teacher_of_its_own(bench: Any, teacher: nn.Module) -> None:
    made = bench(None)
    before = made.teach(torch.ones(1, 3, 16, 16))
    nn.init.zeros_(teacher[8].weight)
    assert torch.equal(made.teach(torch.ones(1, 3, 16, 16)), before)


# Holding out


def test_a_pool_that_is_too_small_is_not_split(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = bench(OESettings(holdout=0.1))  # 6 of 60
    assert "the OOD pool of 60 images is too small to hold any out: no early stopping" in caplog.text
    fit = made.fit(copy.deepcopy(made._teacher), stage(made, 3))
    assert (fit.steps, fit.best_step, fit.agreement) == (3, 3, None)
    assert len(made._sampler.pool_indices) == 60


def test_a_user_who_wants_no_holdout_is_not_warned(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    bench(OESettings(holdout=0.0))
    assert not caplog.records


def test_images_held_out_are_never_drawn(bench: Any) -> None:
    made = bench(WATCHED)
    held, drawn = set(made._holdout.tolist()), set(made._sampler.pool_indices.tolist())
    assert len(held) == 30
    assert not held & drawn
    assert held | drawn == set(range(60))


# Fitting


def test_fit_leaves_the_student_on_the_cpu_in_eval_mode(bench: Any, teacher: nn.Module) -> None:
    student, made = copy.deepcopy(teacher).train(), bench(PLAN)
    before = copy.deepcopy(student.state_dict())
    fit = made.fit(student, stage(made, 3))
    assert fit.steps == 3
    assert fit.images_per_second > 0
    assert not any(module.training for module in student.modules())
    assert {tensor.device.type for tensor in student.state_dict().values()} == {"cpu"}
    assert all(not torch.equal(before[key], value) for key, value in student.state_dict().items()), "all learnt"


def test_fitting_brings_a_student_nearer_to_its_teacher(bench: Any, teacher_file: Path) -> None:
    torch.manual_seed(1)
    student, made = TeacherSource.parse(f"{teacher_file}:chain").build(3).eval(), bench(PLAN, flip=False, padding=0)
    x = batches(made, 1)[0].x
    expected = made.teach(x)

    def distance() -> float:
        with torch.no_grad():
            return float(distillation(student(x), expected, temperature=4.0).mean())

    before = distance()
    made.fit(student, stage(made, 60, label_weight=0.0, lr=0.05))
    assert distance() < before / 2


def test_the_learning_rate_falls_along_a_cosine(
    bench: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noted(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    made = bench(None)
    made.fit(copy.deepcopy(teacher), stage(made, 4, lr=0.1))
    assert rates == pytest.approx([0.1, 0.1 * (0.5 + 0.25 * 2**0.5), 0.05, 0.1 * (0.5 - 0.25 * 2**0.5)])


def agreeing(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[dict[str, Tensor]]:
    """Let the checks of early stopping score so, one after the other; the weights that each check saw."""
    seen: list[dict[str, Tensor]] = []

    def agreement(self: Workbench, module: nn.Module, *watched: Tensor) -> float:
        seen.append({key: value.clone() for key, value in module.state_dict().items()})
        return scores[len(seen) - 1]

    monkeypatch.setattr(Workbench, "_agreement", agreement)
    return seen


def test_early_stopping_keeps_the_best_weights(bench: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = agreeing(monkeypatch, [0.5, 0.9, 0.6, 0.7])
    student, made = copy.deepcopy(teacher), bench(WATCHED)
    fit = made.fit(student, stage(made, 100))
    assert (fit.steps, fit.best_step, fit.agreement) == (8, 4, 0.9)
    assert len(seen) == 4, "it stopped after two worse checks"
    assert all(torch.equal(seen[1][key], value) for key, value in student.state_dict().items())
    assert any(not torch.equal(seen[3][key], value) for key, value in student.state_dict().items())


def test_the_last_step_is_checked_too(bench: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    agreeing(monkeypatch, [0.1, 0.2, 0.3])
    made = bench(WATCHED)
    fit = made.fit(copy.deepcopy(teacher), stage(made, 5))
    assert (fit.steps, fit.best_step, fit.agreement) == (5, 5, 0.3)


def test_agreement_is_taken_in_eval_mode_and_training_goes_on(
    bench: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[tuple[bool, bool]] = []
    made = bench(WATCHED)
    plain = stage(made, 6)

    def imitate(student: nn.Module, x: Tensor) -> Imitation:
        modes.append((student.training, student.module.training))
        return plain.imitate(student, x)

    fit = made.fit(copy.deepcopy(teacher), replace(plain, imitate=imitate))
    assert modes == [(True, True)] * 6
    assert fit.agreement is not None
    assert 0 <= fit.agreement <= 1


def test_a_copy_of_the_teacher_agrees_with_it(bench: Any, teacher: nn.Module) -> None:
    made = bench(WATCHED)
    fit = made.fit(copy.deepcopy(teacher), stage(made, 1, lr=1e-9))
    assert fit.agreement is not None
    assert fit.agreement >= 0.9, "only the running statistics moved, by a tenth of their way"


def test_progress_is_told_every_step(bench: Any, teacher: nn.Module) -> None:
    told: list[Any] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Any]:
        told.append((title, total))
        yield lambda: told.append(title)

    made = bench(None, progress=progress)
    made.fit(copy.deepcopy(teacher), stage(made, 3))
    assert told == [("test", 3), "test", "test", "test"]


def test_shape_is_what_the_network_takes(bench: Any) -> None:
    assert bench(None).shape == (3, 16, 16)


def test_separate_statistics_never_pass_samples_and_ood_rows_together(bench: Any, teacher: nn.Module) -> None:
    made, seen = bench(replace(PLAN, ood_batch=5, separate_statistics=True)), []
    plain = stage(made, 2)

    def noting(student: nn.Module, x: Tensor) -> Imitation:
        seen.append(len(x))
        return plain.imitate(student, x)

    fit = made.fit(copy.deepcopy(teacher), replace(plain, imitate=noting))
    assert fit.steps == 2
    assert seen == [8, 5, 8, 5]
