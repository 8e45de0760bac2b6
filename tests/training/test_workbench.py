"""Batches and the one training loop."""

import copy
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from layers import layer_of
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn

from edgeoe.balance.losses import teacher_guidance
from edgeoe.data.images import Images
from edgeoe.data.pool import Pool, load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import Samples, find_samples, load_samples
from edgeoe.errors import ConfigError, DataError, TrainingError
from edgeoe.methods import TrainingTask, View
from edgeoe.methods.recoveries.distillation import distillation
from edgeoe.models.observation import HookPoint
from edgeoe.models.teacher import TeacherSource
from edgeoe.settings import OESettings
from edgeoe.training.batches import Batch, Batches
from edgeoe.training.workbench import Workbench

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
        usual = {"shape": PREPROCESS.shape, "fabric": fabric, "batch": 8, "padding": 2}
        return Workbench(teacher, lambda: (samples, pool), plan=plan, **{**usual, **changes})

    return make


def batches(bench: Workbench, steps: int) -> list[Batch]:
    return list(bench.batches.draw(steps))


def apart(student: View, teacher: View) -> Tensor:
    return distillation(student.logits, teacher.logits, temperature=4.0)


def task(steps: int, **changes: Any) -> TrainingTask:
    """Distillation, as the plain method has it."""
    return TrainingTask(
        **{"name": "test", "distance": apart, "lr": 0.02, "max_steps": steps, "label_weight": 1.0, **changes}
    )


# Batches


def test_without_a_plan_a_batch_has_only_samples(bench: Any) -> None:
    for batch in batches(bench(None), 5):
        assert batch.x.shape == (8, 3, 16, 16)
        assert batch.samples == len(batch.y) == 8


def test_no_more_batches_are_read_than_there_are_steps(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, steps = bench(None), []
    read = made.batches._read
    monkeypatch.setattr(made.batches, "_read", lambda step: (steps.append(step), read(step))[1])
    assert len(batches(made, 3)) == 3
    assert steps == [0, 1, 2]


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
    offsets = bench(None, flip=False, padding=2).batches._sampler.draw(0).offsets.tolist()
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


def test_which_samples_a_batch_has_follows_from_the_seed_alone(bench: Any) -> None:
    """Without OOD images, so that no other part of the seed's work can stand in for the sampler's."""
    first, again, other = (batches(bench(None, padding=0, flip=False, seed=seed), 3) for seed in (4, 4, 5))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.x, b.x)
        assert not torch.equal(a.x, c.x)


def test_which_ood_images_are_held_out_follows_from_the_seed_alone(bench: Any) -> None:
    """Before a batch is drawn, so that the sampler can't stand in for the split of the pool."""
    first, again, other = (bench(WATCHED, seed=seed) for seed in (4, 4, 5))
    parts: list[Callable[[Any], Tensor]] = [
        lambda made: made.batches._holdout,
        lambda made: made.batches._sampler.pool_indices,
    ]
    for part in parts:
        assert torch.equal(part(first), part(again))
        assert set(part(first).tolist()) != set(part(other).tolist())


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


def test_without_complementary_labels_every_class_is_drawn_alike(bench: Any) -> None:
    made = bench(replace(PLAN, complementary_labels=False, ood_batch=200))
    times = torch.bincount(torch.cat([batch.y[batch.samples :] for batch in batches(made, 3)]), minlength=3)
    assert int(times.sum()) == 600
    assert (times - 200).abs().max() < 60  # 5 standard deviations
    assert torch.equal(made.batches.class_weights, bench(PLAN).batches.class_weights), (
        "the weights of classes are another matter"
    )


def test_ood_images_may_be_left_out_of_fine_tuning(bench: Any, teacher: nn.Module) -> None:
    made = bench(replace(WATCHED, in_fine_tuning=False))
    for batch in batches(made, 3):
        assert batch.x.shape == (8, 3, 16, 16)
        assert batch.samples == 8
    fit = made.fit(copy.deepcopy(teacher), task(4))
    assert fit.agreement is not None, "those held out still say when to stop"
    assert len(made.rows()) > len(bench(None).rows()), "and the others still help to solve"


def test_without_any_labelled_sample_batches_are_ood_images(bench: Any, samples: Samples, teacher: nn.Module) -> None:
    none = replace(samples, images=Images([], PREPROCESS), labels=samples.labels[:0])
    made = bench(PLAN, samples=none)
    for batch in batches(made, 2):
        assert batch.samples == 0
        assert batch.x.shape == (8, 3, 16, 16)
    student = copy.deepcopy(teacher)
    fit = made.fit(student, task(2))
    assert fit.steps == 2
    assert not torch.equal(layer_of(student, "8").weight, layer_of(teacher, "8").weight)
    rows = made.rows()
    assert sum(len(x) for x, _ in rows) == 60
    assert all(len(x) for x, _ in rows), "no part is empty"
    assert all(bool(weight.isfinite().all()) and bool((weight > 0).all()) for _, weight in rows)


@pytest.mark.parametrize("changes", [{"in_fine_tuning": False}, {"ood_weight": 0.0, "regulariser": 0.0}])
def test_neither_labelled_samples_nor_ood_images_to_train_on_are_refused(
    bench: Any, samples: Samples, teacher: nn.Module, changes: dict[str, Any]
) -> None:
    none = replace(samples, images=Images([], PREPROCESS), labels=samples.labels[:0])
    with pytest.raises(ConfigError):
        bench(replace(PLAN, **changes), samples=none).fit(copy.deepcopy(teacher), task(2))


@pytest.mark.parametrize("changes", [{"in_compression": False}, {"ood_weight": 0.0}])
def test_neither_labelled_samples_nor_ood_images_to_solve_with_are_refused(
    bench: Any, samples: Samples, changes: dict[str, Any]
) -> None:
    none = replace(samples, images=Images([], PREPROCESS), labels=samples.labels[:0])
    with pytest.raises(ConfigError):
        bench(replace(PLAN, **changes), samples=none).rows()


# Rows to solve with


def joined(bench: Workbench) -> tuple[Tensor, Tensor]:
    """All of the rows' images and weights."""
    images, weights = zip(*bench.rows(), strict=True)
    return torch.cat(images), torch.cat(weights)


def test_without_a_plan_rows_are_the_samples_as_they_are(bench: Any, samples: Samples) -> None:
    x, weights = joined(bench(None))
    expected = PREPROCESS.normalise(samples.images.rows(range(18)))
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-5)
    assert weights.tolist() == [1.0] * 18


def test_samples_of_rare_classes_weigh_more_and_1_on_average(bench: Any, samples: Samples) -> None:
    _, weights = joined(bench(replace(PLAN, in_compression=False)))
    assert float(weights.mean()) == pytest.approx(1)
    each = [set(weights[torch.from_numpy(samples.labels) == k].tolist()) for k in range(3)]
    assert [len(own) for own in each] == [1, 1, 1]
    common, fewer, rare = (own.pop() for own in each)
    assert 0 < common < fewer < rare


def test_without_class_weights_all_samples_and_all_ood_images_weigh_alike(bench: Any) -> None:
    _, weights = joined(bench(replace(PLAN, class_weights=False, ood_weight=2.0)))
    assert weights[:18].tolist() == [1.0] * 18
    assert weights[18:].tolist() == pytest.approx([2.0 * 18 / 60] * 60)


@pytest.mark.parametrize("ood_weight", [0.5, 1.0, 3.0])
def test_ood_images_together_weigh_lambda_times_the_samples(bench: Any, ood_weight: float) -> None:
    x, weights = joined(bench(replace(PLAN, ood_weight=ood_weight)))
    assert len(x) == 18 + 60
    assert float(weights[18:].sum()) == pytest.approx(ood_weight * 18, rel=1e-5)


def test_an_ood_image_weighs_what_the_teacher_sees_of_rare_classes_in_it(bench: Any, teacher: nn.Module) -> None:
    layer_of(teacher, "8").weight.mul_(20)  # it is of two minds about random pictures otherwise
    made = bench(PLAN)
    x, weights = joined(made)
    guidance = teacher_guidance(teacher(x[18:]), made.batches.class_weights)
    assert float(guidance.max()) > 1.05 * float(guidance.min())
    torch.testing.assert_close(weights[18:] / weights[18:].sum(), guidance / guidance.sum(), rtol=1e-3, atol=1e-5)


def test_no_more_ood_images_than_asked_and_none_held_out(bench: Any, pool: Pool) -> None:
    made = bench(replace(WATCHED, compression_images=7))
    x, weights = joined(made)
    assert len(x) == len(weights) == 18 + 7
    held = torch.from_numpy(PREPROCESS.normalise(pool.images.rows(made.batches._holdout.numpy())))
    assert not any(torch.allclose(own, other, atol=1e-5) for own in x[18:] for other in held)


@pytest.mark.parametrize("changes", [{"in_compression": False}, {"ood_weight": 0.0}])
def test_ood_images_may_be_left_out_of_solving(bench: Any, changes: dict[str, Any]) -> None:
    made = bench(replace(PLAN, **changes))
    assert len(joined(made)[0]) == 18
    assert len(batches(made, 1)[0].x) == 16, "but not of training"


def test_rows_come_in_parts_that_memory_holds(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = joined(bench(PLAN))
    monkeypatch.setattr(Batches, "evaluated", 10)
    made = bench(PLAN)
    assert [len(x) for x, _ in made.rows()] == [10, 8, *[10] * 6]
    for part, expected in zip(joined(made), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "images"), [(32, 32, 250), (16, 16, 1000), (100, 50, 51), (224, 224, 8), (4000, 3000, 8)]
)
def test_as_many_images_are_evaluated_at_a_time_as_their_pixels_allow(height: int, width: int, images: int) -> None:
    images_of = SimpleNamespace(preprocess=SimpleNamespace(shape=(3, height, width)))
    shown = SimpleNamespace(samples=SimpleNamespace(images=images_of))
    assert Batches.evaluated.fget(shown) == images  # type: ignore[attr-defined]


# Images for int8 ranges


def indices(images: np.ndarray, *among: Images) -> list[tuple[int, int]]:
    """Which of `among`, and which of its images, each image is."""
    known = [images.rows(range(len(images))) for images in among]
    found = []
    for image in images:
        places = [
            (part, row) for part, rows in enumerate(known) for row in range(len(rows)) if (rows[row] == image).all()
        ]
        assert len(places) == 1
        found += places
    return found


def test_without_ood_images_ranges_come_from_the_samples_and_are_judged_by_them(bench: Any, samples: Samples) -> None:
    for count, expected in ((5, 5), (100, 18)):
        own, judged = bench(None).calibration_images(count)
        assert indices(own, samples.images) == [(0, row) for row in range(expected)]
        assert np.array_equal(own, judged)


def test_no_image_that_ranges_come_from_judges_them(bench: Any, samples: Samples, pool: Pool) -> None:
    made = bench(WATCHED)
    own, judged = (indices(images, samples.images, pool.images) for images in made.calibration_images(9))
    assert len(own) == len(set(own)) == len(judged) == len(set(judged)) == 9
    assert not set(own) & set(judged)
    assert {part for part, _ in judged} == {1}, "the samples are too few to judge by"
    assert not {row for part, row in own + judged if part} & set(made.batches._holdout.tolist())
    labels = [int(samples.labels[row]) for part, row in own if not part]
    assert labels == [0, 0, 0, 1, 1, 1, 2], "a third for each class; its only sample for the rarest"


def test_the_teacher_sees_8_images_for_each_that_ranges_come_from(bench: Any) -> None:
    made, seen = bench(PLAN), []
    teach = made._teacher_logits
    made._teacher_logits = lambda x: (seen.append(len(x)), teach(x))[1]
    own, judged = made.calibration_images(3)
    assert (sum(seen), len(own), len(judged)) == (24, 3, 3)


def looks(pixels: np.ndarray) -> list[bytes]:
    """Each image's pixels, to tell images apart by."""
    return [image.tobytes() for image in pixels]


@pytest.mark.parametrize("count", [3, 12, 30])
def test_int8_is_judged_on_images_that_it_was_not_calibrated_with(bench: Any, count: int) -> None:
    calibration, others = bench(PLAN).calibration_images(count)
    assert len(calibration) == len(others) == count
    assert len({*looks(calibration), *looks(others)}) == 2 * count


@pytest.fixture
def coloured(samples: Samples, tmp_path: Path, fabric: Fabric) -> Callable[..., Workbench]:
    """`coloured(plan)`: three classes that the teacher tells by their colour; a pool of 80 pictures of each, and of
    60 in grey, so bright that all classes have larger logits there."""
    rng = np.random.default_rng(0)
    for number in range(300):
        pixels = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
        pixels[..., number % 3 if number < 240 else slice(3)] += np.uint8(100 if number < 240 else 190)
        Image.fromarray(pixels).save(tmp_path / f"{number:03d}.png")
    scale = nn.BatchNorm2d(3)  # undoes the normalisation
    scale.weight.data, scale.bias.data = 20 * torch.tensor(PREPROCESS.std), 20 * torch.tensor(PREPROCESS.mean)
    teacher = nn.Sequential(scale, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    pool = load_pool(tmp_path, PREPROCESS)

    def make(plan: OESettings, *, samples: Samples = samples) -> Workbench:
        load, shape = (lambda: (samples, pool)), PREPROCESS.shape
        return Workbench(teacher, load, shape=shape, plan=plan, fabric=fabric, batch=8, seed=3)

    return make


def test_a_class_has_its_part_of_the_images_that_calibrate_and_of_those_that_judge(
    coloured: Callable[..., Workbench], samples: Samples
) -> None:
    calibration, others = coloured(PLAN).calibration_images(30)
    labelled = dict(zip(looks(samples.images.rows(range(18))), samples.labels, strict=True))
    colours = calibration.mean((2, 3)).argmax(1)
    of = [labelled.get(look, colour) for look, colour in zip(looks(calibration), colours, strict=True)]
    assert np.bincount(of, minlength=3).tolist() == [10, 10, 10]
    assert sum(look in labelled for look in looks(calibration)) == 10 + 5 + 1, "samples come before pool images"
    assert np.bincount(others.mean((2, 3)).argmax(1), minlength=3).tolist() == [10, 10, 10]
    assert not {*looks(others)} & {*labelled}
    from_pool = [image for image in calibration if image.tobytes() not in labelled]
    dimmest = np.concatenate([others, from_pool]).mean((2, 3)).min(1)
    assert dimmest.max() < 60, "of grey pictures the teacher is not sure"


def test_without_labelled_samples_pool_images_alone_calibrate(coloured: Any, samples: Samples) -> None:
    none = replace(samples, images=Images([], PREPROCESS), labels=samples.labels[:0])
    for part in coloured(PLAN, samples=none).calibration_images(9):
        assert np.bincount(part.mean((2, 3)).argmax(1), minlength=3).tolist() == [3, 3, 3]


# The clock


def test_latency_is_the_clocks(bench: Any, teacher: nn.Module) -> None:
    made = bench(None, latency_ms=lambda models: [float(len(list(model.modules()))) for model in models])
    assert made.latency_ms([teacher, nn.Identity()]) == [float(len(list(teacher.modules()))), 1.0]


def test_without_a_clock_latency_is_refused(bench: Any, teacher: nn.Module) -> None:
    with pytest.raises(ConfigError, match="ranks by measured latency, and the workbench has no target"):
        bench(None).latency_ms([teacher])


# The teacher


def test_teach_answers_without_a_gradient(bench: Any, teacher: nn.Module) -> None:
    x = torch.randn(4, 3, 16, 16, requires_grad=True)
    logits = bench(None)._teacher_logits(x)
    assert not logits.requires_grad
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, teacher(x).detach(), rtol=1e-4, atol=1e-5)


def test_the_workbench_keeps_a_teacher_of_its_own(bench: Any, teacher: nn.Module) -> None:
    made = bench(None)
    before = made._teacher_logits(torch.ones(1, 3, 16, 16))
    nn.init.zeros_(layer_of(teacher, "8").weight)
    assert torch.equal(made._teacher_logits(torch.ones(1, 3, 16, 16)), before)


def test_images_are_loaded_when_they_are_first_asked_for(
    teacher: nn.Module, samples: Samples, pool: Pool, fabric: Fabric
) -> None:
    loads = []

    def load() -> tuple[Samples, Pool]:
        loads.append(1)
        return samples, pool

    made = Workbench(teacher, load, shape=PREPROCESS.shape, plan=PLAN, fabric=fabric, batch=8)
    assert (made.shape, made.device.type, loads) == (PREPROCESS.shape, "cpu", [])
    made.rows()
    made.fit(copy.deepcopy(teacher), task(1))
    assert loads == [1]


# Holding out


def test_a_pool_that_is_too_small_is_not_split(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = bench(OESettings(holdout=0.1))  # 6 of 60
        assert len(made.batches._sampler.pool_indices) == 60
    assert "the OOD pool of 60 images is too small to hold any out: no early stopping" in caplog.text
    fit = made.fit(copy.deepcopy(made._teacher), task(3))
    assert (fit.steps, fit.best_step, fit.agreement) == (3, 3, None)


@pytest.mark.parametrize(("images", "held"), [(38, 0), (40, 20), (6000, 500)])
def test_20_to_500_images_are_held_out(images: int, held: int, bench: Any, pool: Pool) -> None:
    made = bench(WATCHED, pool=Pool(Images(pool.images.paths[:1] * images, PREPROCESS, memory_bytes=0)))
    assert len(made.batches._holdout) == held
    assert len(made.batches._sampler.pool_indices) == images - held


def test_a_user_who_wants_no_holdout_is_not_warned(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert bench(OESettings(holdout=0.0)).batches.held_out() is None
    assert not caplog.records


def test_images_held_out_are_never_drawn(bench: Any) -> None:
    made = bench(WATCHED)
    held, drawn = set(made.batches._holdout.tolist()), set(made.batches._sampler.pool_indices.tolist())
    assert len(held) == 30
    assert not held & drawn
    assert held | drawn == set(range(60))


# Fitting


def test_fit_leaves_the_student_on_the_cpu_in_eval_mode(bench: Any, teacher: nn.Module) -> None:
    student, made = copy.deepcopy(teacher).train(), bench(PLAN)
    before = copy.deepcopy(student.state_dict())
    fit = made.fit(student, task(3))
    assert fit.steps == 3
    assert fit.images_per_second > 0
    assert not any(module.training for module in student.modules())
    assert {tensor.device.type for tensor in student.state_dict().values()} == {"cpu"}
    assert all(not torch.equal(before[key], value) for key, value in student.state_dict().items()), "all learnt"


@pytest.mark.parametrize(("plan", "rows"), [(None, 8), (replace(PLAN, ood_batch=5), 13)])
def test_speed_is_in_images_of_both_kinds(
    plan: OESettings | None, rows: int, bench: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((100.0, 102.0))
    made = bench(plan)
    monkeypatch.setattr("edgeoe.training.workbench.perf_counter", lambda: next(clock))
    assert made.fit(copy.deepcopy(teacher), task(3)).images_per_second == pytest.approx(3 * rows / 2)


def test_fitting_brings_a_student_nearer_to_its_teacher(bench: Any, teacher_file: Path) -> None:
    torch.manual_seed(1)
    student, made = TeacherSource.parse(f"{teacher_file}:chain").build(3).eval(), bench(PLAN, flip=False, padding=0)
    x = batches(made, 1)[0].x
    expected = made._teacher_logits(x)

    def distance() -> float:
        with torch.no_grad():
            return float(distillation(student(x), expected, temperature=4.0).mean())

    before = distance()
    made.fit(student, task(60, label_weight=0.0, lr=0.05))
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
    made.fit(copy.deepcopy(teacher), task(4, lr=0.1))
    assert rates == pytest.approx([0.1, 0.1 * (0.5 + 0.25 * 2**0.5), 0.05, 0.1 * (0.5 - 0.25 * 2**0.5)])


@pytest.mark.parametrize("momentum", [0.9, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_without_a_loss_weights_decay_as_nesterovs_momentum_has_it(
    bench: Any, teacher: nn.Module, momentum: float, decay: float
) -> None:
    student, velocity, kept = copy.deepcopy(teacher), 0.0, 1.0
    for lr in (0.1, 0.05):  # along the cosine
        velocity = momentum * velocity + decay * kept
        kept -= lr * (decay * kept + momentum * velocity)
    nothing = task(
        2,
        distance=lambda own, _: own.logits[:, 0] * 0,
        label_weight=0.0,
        lr=0.1,
        momentum=momentum,
        weight_decay=decay,
        batch_statistics=False,
    )
    bench(None).fit(student, nothing)
    for before, after in zip(teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(after, kept * before)


def agreeing(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[dict[str, Tensor]]:
    """Let the checks of early stopping score so, one after the other; the weights that each check saw."""
    seen: list[dict[str, Tensor]] = []

    def agreement(self: Workbench, module: nn.Module, *watched: Tensor) -> tuple[float, float]:
        seen.append({key: value.clone() for key, value in module.state_dict().items()})
        return scores[len(seen) - 1], 0.0

    monkeypatch.setattr(Workbench, "_agreement", agreement)
    return seen


def test_early_stopping_keeps_the_best_weights(bench: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = agreeing(monkeypatch, [0.5, 0.9, 0.6, 0.7])
    student, made = copy.deepcopy(teacher), bench(WATCHED)
    fit = made.fit(student, task(100))
    assert (fit.steps, fit.best_step, fit.agreement) == (8, 4, 0.9)
    assert len(seen) == 4, "it stopped after two worse checks"
    assert all(torch.equal(seen[1][key], value) for key, value in student.state_dict().items())
    assert any(not torch.equal(seen[3][key], value) for key, value in student.state_dict().items())


def test_the_last_step_is_checked_too(bench: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    agreeing(monkeypatch, [0.1, 0.2, 0.3])
    made = bench(WATCHED)
    fit = made.fit(copy.deepcopy(teacher), task(5))
    assert (fit.steps, fit.best_step, fit.agreement) == (5, 5, 0.3)


def test_agreement_is_taken_in_eval_mode_and_training_goes_on(
    bench: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[bool] = []
    forward = nn.BatchNorm2d.forward

    def noting(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
        if self.num_features == 8 and torch.is_grad_enabled():
            modes.append(self.training)
        return forward(self, x)

    monkeypatch.setattr(nn.BatchNorm2d, "forward", noting)
    fit = bench(WATCHED).fit(copy.deepcopy(teacher), task(6))
    assert modes == [True] * (6 + 1), "each step, and the trial of the memory format"
    assert fit.agreement is not None
    assert 0 <= fit.agreement <= 1


def test_a_copy_of_the_teacher_agrees_with_it(bench: Any, teacher: nn.Module) -> None:
    made = bench(WATCHED)
    fit = made.fit(copy.deepcopy(teacher), task(1, lr=1e-9))
    assert fit.agreement is not None
    assert fit.agreement >= 0.9, "only the running statistics moved, by a tenth of their way"


def test_progress_is_told_every_step(bench: Any, teacher: nn.Module) -> None:
    told: list[Any] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Any]:
        told.append((title, total))
        yield lambda: told.append(title)

    made = bench(None, progress=progress)
    made.fit(copy.deepcopy(teacher), task(3))
    assert told == [("test", 3), "test", "test", "test"]


def test_shape_is_what_the_network_takes(bench: Any) -> None:
    assert bench(None).shape == (3, 16, 16)


def test_separate_statistics_never_pass_samples_and_ood_rows_together(bench: Any, teacher: nn.Module) -> None:
    made, seen = bench(replace(PLAN, ood_batch=5, separate_statistics=True)), []

    def noting(student: View, taught: View) -> Tensor:
        seen.append((len(student.logits), len(taught.logits)))
        return apart(student, taught)

    fit = made.fit(copy.deepcopy(teacher), task(2, distance=noting))
    assert fit.steps == 2
    assert seen == [(8, 8), (5, 5), (8, 8), (5, 5)]


def test_separate_statistics_pass_nothing_where_there_are_no_ood_rows(bench: Any, teacher: nn.Module) -> None:
    made, seen = bench(replace(PLAN, in_fine_tuning=False, separate_statistics=True)), []

    def noting(student: View, taught: View) -> Tensor:
        seen.append(len(student.logits))
        return apart(student, taught)

    made.fit(copy.deepcopy(teacher), task(2, distance=noting))
    assert seen == [8, 8]


def test_only_what_a_stage_trains_learns(bench: Any, teacher: nn.Module) -> None:
    student = copy.deepcopy(teacher)
    bench(PLAN).fit(student, task(3, trains=lambda name: name.startswith("4."), weight_decay=0.5))
    after, before = dict(student.named_parameters()), dict(teacher.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"4.0.weight", "4.1.weight", "4.1.bias"}


@pytest.mark.parametrize("moves", [True, False])
def test_batch_statistics_move_only_where_a_stage_says_so(bench: Any, teacher: nn.Module, moves: bool) -> None:
    student = copy.deepcopy(teacher)
    bench(PLAN).fit(student, task(2, batch_statistics=moves))
    for name, buffer in student.named_buffers():
        assert torch.equal(buffer, teacher.get_buffer(name)) is not moves, name
    assert not torch.equal(layer_of(student, "8").weight, layer_of(teacher, "8").weight)


def test_a_stage_without_early_stopping_ends_at_its_last_step(
    bench: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = agreeing(monkeypatch, [0.9, 0.1, 0.1, 0.1])
    fit = bench(WATCHED).fit(copy.deepcopy(teacher), task(8, early_stop=False))
    assert (fit.steps, fit.best_step, fit.agreement) == (8, 8, None)
    assert not seen


def test_the_distance_sees_what_passes_the_points_in_their_order(bench: Any, teacher: nn.Module) -> None:
    shapes: list[Any] = []

    def noting(student: View, taught: View) -> Tensor:
        assert torch.is_grad_enabled()
        assert student.activations[0].requires_grad
        assert not taught.activations[0].requires_grad
        assert student.logits.dtype == taught.logits.dtype == torch.float32
        for view in (student, taught):
            pooled, features, logits = view.activations
            torch.testing.assert_close(features.mean((2, 3)), pooled, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(logits.float(), view.logits)
            shapes.append(tuple(features.shape))
        return (student.activations[1] - taught.activations[1]).square().flatten(1).mean(1)

    watch = (HookPoint("8", "input"), HookPoint("5"), HookPoint("8"))
    student = copy.deepcopy(teacher)
    bench(PLAN).fit(student, task(2, watch=watch, distance=noting))
    assert shapes == [(16, 16, 16, 16)] * 4
    assert not torch.equal(layer_of(student, "0.0").weight, layer_of(teacher, "0.0").weight)


def test_labels_count_for_nothing_unless_a_stage_says_so(bench: Any, teacher: nn.Module) -> None:
    made, students = bench(None), [copy.deepcopy(teacher) for _ in range(2)]
    for student, weight in zip(students, (0.0, 1.0), strict=True):
        made.fit(
            student,
            task(2, label_weight=weight, distance=lambda own, _: own.logits[:, 0] * 0, weight_decay=0.0),
        )
    assert TrainingTask(name="test", distance=apart, lr=0.1, max_steps=1).label_weight == 0.0
    assert torch.equal(layer_of(students[0], "8").weight, layer_of(teacher, "8").weight)
    assert not torch.equal(layer_of(students[1], "8").weight, layer_of(teacher, "8").weight)


def test_only_batch_norms_are_in_training_mode(bench: Any, teacher: nn.Module) -> None:
    class Branching(nn.Module):
        """Has an auxiliary output and drops half of its features while it is in training mode."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.drop, self.aux = copy.deepcopy(teacher), nn.Dropout(0.5), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Any:
            modes.append({type(module).__name__ for module in self.modules() if module.training})
            logits = self.drop(self.body(x))
            return (logits, self.aux(logits)) if self.training else logits

    modes: list[set[str]] = []
    student = Branching()
    for statistics, expected in ((True, {"BatchNorm2d"}), (False, set())):
        modes.clear()
        bench(WATCHED).fit(student, task(4, batch_statistics=statistics))
        assert modes.count(expected) >= 4
        assert all(mode in (expected, set()) for mode in modes), "the checks of early stopping are in eval mode"
        assert not any(module.training for module in student.modules())


class Flattening(nn.Module):
    """As LeNet and VGG are often written."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.head(x.view(x.size(0), -1))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm3d(2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x[:, None]))).flatten(1, 2)
        return self.head(x.mean((2, 3)))


class Filter(nn.Module):
    """Multiplies frequencies by weights that it sees as complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.filter = nn.Parameter(torch.randn(4, 16, 9, 2))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.irfft2(torch.fft.rfft2(self.conv(x)) * torch.view_as_complex(self.filter), s=(16, 16))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("network", [Flattening, Volume, Filter])
def test_whatever_takes_images_trains(network: type[nn.Module], samples: Samples, pool: Pool, fabric: Fabric) -> None:
    torch.manual_seed(0)
    teacher = network().eval()
    student = copy.deepcopy(teacher)
    made = Workbench(
        teacher, lambda: (samples, pool), shape=PREPROCESS.shape, plan=WATCHED, fabric=fabric, batch=8, padding=2
    )
    assert made.fit(student, task(3)).steps == 3
    assert all(x.is_contiguous() for x, _ in made.rows())
    before = dict(teacher.named_parameters())
    assert all(not torch.equal(before[name], parameter) for name, parameter in student.named_parameters())


NARROW = """
import sys
from pathlib import Path
import torch
from lightning_fabric import Fabric
from torch import nn
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.methods import TrainingTask
from edgeoe.methods.recoveries.distillation import distillation
from edgeoe.pruning.prune import prune_channels
from edgeoe.training.workbench import Workbench

class Projecting(nn.Module):
    "A residual block whose shortcut is a strided 1x1 convolution, as in a ResNet."
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16))
        self.shortcut = nn.Sequential(nn.Conv2d(12, 16, 1, 2), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 3)
    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(self.branch(x) + self.shortcut(x)).mean((2, 3)))

preprocess = Preprocess(size=(16, 16), mean=(0.4,) * 3, std=(0.3,) * 3)
samples = load_samples(find_samples(Path(sys.argv[1])), preprocess)
teacher = Projecting().eval().requires_grad_(False)
fabric = Fabric(accelerator="cpu", devices=1)
bench = Workbench(teacher, lambda: (samples, None), shape=preprocess.shape, plan=None, fabric=fabric, batch=16)
def apart(student, teacher):
    return distillation(student.logits, teacher.logits, temperature=4.0)
task = TrainingTask(name="test", distance=apart, lr=0.02, max_steps=5)
for keep in (0.5, 0.35, 0.2):
    student = prune_channels(teacher, shape=preprocess.shape, keep=keep).model
    print(student.shortcut[0].in_channels)
    assert bench.fit(student, task).steps == 5
"""


def test_a_network_cut_to_a_few_channels_trains_to_the_end(pictures: Path) -> None:
    """In a process of its own, which corrupted memory would end by a signal."""
    ended = subprocess.run(
        [sys.executable, "-c", NARROW, str(pictures / "train")], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-500:]
    assert any(int(width) < 8 for width in ended.stdout.split())


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_a_training_that_diverges_is_said_and_leaves_the_student(bench: Any, teacher: nn.Module, lr: float) -> None:
    student = copy.deepcopy(teacher)
    with pytest.raises(TrainingError, match=r"test: training diverged at a learning rate of 1e\+?\d+: |of 1000: "):
        bench(PLAN).fit(student, task(12, lr=lr))
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in student.state_dict().items())
