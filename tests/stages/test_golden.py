"""Golden images: what a device gets is no labelled sample, and makes the student predict several classes."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from edgeoe.data.likeness import alike
from edgeoe.data.pool import load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.errors import RunError
from edgeoe.models.checkpoint import load_student
from edgeoe.pipeline import bundle, compress, export
from edgeoe.records.compression import GoldenImages
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.settings import CompressSettings
from edgeoe.stages.golden import clear_of_each_class, golden_images, spread_of_pool
from edgeoe.targets.load import load_target

LOGITS = arrays.arrays(np.float32, st.tuples(st.integers(0, 30), st.just(4)), elements=st.integers(-5, 5))


def samples_of(run: Run, pictures: Path) -> NDArray[np.uint8]:
    samples = load_samples(find_samples(pictures / "train"), run.read(layout.FACTS).preprocess)
    return samples.images.rows(range(len(samples.labels)))


def in_a_bundle(run: Run, folder: Path) -> NDArray[np.uint8]:
    """The golden images of a bundle without --test, turned back to pixels."""
    bundle(run, load_target("host-cpu"), out=folder / "b.tar")
    with tarfile.open(folder / "b.tar") as opened:
        (name,) = [name for name in opened.getnames() if name.endswith("golden-images.npy")]
        assert not [name for name in opened.getnames() if "test" in name]
        opened.extract(name, folder, filter="data")
    preprocess = run.read(layout.FACTS).preprocess
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return np.asarray(np.round((np.load(folder / name) * std + mean) * 255).clip(0, 255), np.uint8)


def test_no_image_of_a_bundle_is_a_sample(exported: Path, pictures: Path, tmp_path: Path) -> None:
    run = Run.open(exported)
    images, samples = in_a_bundle(run, tmp_path), samples_of(run, pictures)
    assert len(images) == 32
    assert alike(samples, samples).all(), "and samples would be recognised"
    assert not alike(images, samples).any()
    golden = run.read(layout.COMPRESS).golden
    assert golden is not None
    assert (golden.source, golden.images) == ("OOD and synthetic images", 32), "all OOD images here are noise"
    assert golden.classes > 1
    pool = load_pool(pictures / "ood", run.read(layout.FACTS).preprocess)
    ood = {image.tobytes() for image in pool.images.rows(range(len(pool)))}
    assert sum(image.tobytes() in ood for image in images) == 16


@pytest.mark.parametrize("ood", ["as given", None])
def test_without_oe_they_are_ood_images_where_there_are_any_and_synthetic_ones_elsewhere(
    ood: str | None, settings: CompressSettings, pictures: Path, tmp_path: Path
) -> None:
    run = compress(replace(settings, oe=False, ood=settings.ood if ood else None), out=tmp_path / "run")
    assert run is not None
    export(run)
    images = in_a_bundle(run, tmp_path)
    assert not alike(images, samples_of(run, pictures)).any()
    record = run.read(layout.COMPRESS)
    assert record.golden is not None
    assert record.golden.source == ("OOD and synthetic images" if ood else "synthetic images")
    with torch.no_grad():
        logits = load_student(run)(torch.from_numpy(run.read_tensors(layout.GOLDEN)["images"]))
    assert len(logits.argmax(1).unique()) == record.golden.classes > 1


def test_samples_that_lie_in_the_pool_are_left_out(settings: CompressSettings, pictures: Path, tmp_path: Path) -> None:
    """Bit for bit or saved again. A pool that holds nothing else gives synthetic images."""
    pool = tmp_path / "pool"
    shutil.copytree(pictures / "train", pool)
    for path in (pictures / "train").rglob("*.png"):
        Image.open(path).save(pool / f"{path.parent.name}-{path.stem}.jpg", quality=75)
    run = compress(replace(settings, ood=pool), out=tmp_path / "run")
    assert run is not None
    golden = run.read(layout.COMPRESS).golden
    assert golden is not None
    assert golden.source == "synthetic images"
    assert not alike(run.read_tensors(layout.PROBE)["golden"], samples_of(run, pictures)).any()


def test_a_run_of_an_earlier_version_is_not_exported(exported: Path) -> None:
    run = Run.open(exported)
    run.save_tensors(layout.PROBE, pixels=run.read_tensors(layout.PROBE)["golden"])
    with pytest.raises(RunError, match="of an earlier version of edgeoe, in which labelled samples went to devices"):
        export(run)


@given(LOGITS)
def test_every_predicted_class_comes_before_any_comes_twice(logits: NDArray[np.float32]) -> None:
    order = clear_of_each_class(logits)
    assert sorted(order.tolist()) == list(range(len(logits)))
    predicted, top = logits.argmax(1), np.sort(logits, 1)
    rest, seen = Counter(predicted.tolist()), Counter[int]()
    margins: dict[int, list[float]] = {}
    for row in order.tolist():
        k = int(predicted[row])
        seen[k] += 1
        assert all(seen[other] >= min(seen[k] - 1, rest[other]) for other in rest)
        margins.setdefault(k, []).append(float(top[row, -1] - top[row, -2]))
    for values in margins.values():
        clearer = values[: (len(values) + 1) // 2]
        assert clearer == sorted(clearer) == sorted(values)[-len(clearer) :], (
            "the clearer half, from the middle upwards"
        )


class Brightness(nn.Module):
    """Two classes: dark and bright images; with `same`, the first for all."""

    def __init__(self, *, same: bool) -> None:
        super().__init__()
        self.same = same

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = torch.ones(len(x)) if self.same else -x.mean((1, 2, 3))
        return torch.stack([dark, -dark], 1)


@pytest.mark.parametrize(
    ("same", "values", "source", "classes"),
    [
        (False, (0, 90, 255), "OOD images", 2),
        (False, (0, 1, 2), "OOD and synthetic images", 2),
        (True, (0, 90, 255), "OOD images", 1),
        (False, (), "synthetic images", 2),
    ],
)
def test_synthetic_images_complete_ood_images_of_one_class(
    same: bool, values: tuple[int, ...], source: str, classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    preprocess = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))
    for number in range(300 if values else 0):
        Image.new("L", (8, 8), values[number % len(values)]).save(tmp_path / f"{number:03d}.png")
    for name, value in (("a", 40), ("b", 200)):
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.new("L", (8, 8), value).save(tmp_path / "few" / name / "0.png")
    samples = load_samples(find_samples(tmp_path / "few"), preprocess)
    shutil.rmtree(tmp_path / "few")
    pool = spread_of_pool(tmp_path, preprocess)
    assert (pool is None) == (not values)
    images, golden = golden_images(Brightness(same=same), samples, pool, preprocess)
    assert golden == GoldenImages(source, len(images), classes)  # type: ignore[arg-type] # a Literal
    assert len(images) == 32
    assert ("predicts one class on all golden images" in caplog.text) == (classes == 1)
    assert golden_images(Brightness(same=same), samples, pool, preprocess)[0].tobytes() == images.tobytes()
