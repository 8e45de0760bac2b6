"""The demo's images."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeoe.data.samples import find_samples, find_test
from edgeoe.demo.data import COUNTS, DemoFolders, write_images


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> DemoFolders:
    return write_images(tmp_path_factory.mktemp("demo") / "images", seed=0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> DemoFolders:
    return write_images(tmp_path_factory.mktemp("demo") / "images", seed=1)


def numbers(folder: Path) -> set[str]:
    """The digits' own numbers in the data set, by which their files are named."""
    return {path.stem for path in folder.rglob("*.png")}


def content(folder: Path) -> dict[str, str]:
    """Every file below `folder` and a digest of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_few_samples_are_as_many_as_counts_says(folders: DemoFolders) -> None:
    few = find_samples(folders.train, folders.few)
    assert few.classes == tuple("0123456789")
    assert sorted(few.counts_k, reverse=True) == list(COUNTS)


def test_the_few_samples_are_ten_a_class_with_imbalance_31() -> None:
    assert sum(COUNTS) == 10 * len(COUNTS) == 100
    assert max(COUNTS) / min(COUNTS) == 31


def test_no_digit_is_both_for_training_and_for_testing(folders: DemoFolders) -> None:
    train, test = numbers(folders.train), numbers(folders.test)
    assert train & test == set()
    assert train | test == {f"{number:04d}" for number in range(1797)}


def test_every_class_can_be_tested(folders: DemoFolders) -> None:
    assert find_test(folders.test, tuple("0123456789")).counts_k.min() > 50


@pytest.mark.parametrize("part", ["train", "test", "ood"])
def test_pictures_are_small_and_grey_and_not_blank(folders: DemoFolders, part: str) -> None:
    paths = sorted(getattr(folders, part).rglob("*.png"))[:50]
    assert len(paths) == 50
    for path in paths:
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            assert np.asarray(image).std() > 0


def test_there_are_2000_patches_without_labels(folders: DemoFolders) -> None:
    assert len(list(folders.ood.iterdir())) == 2000


def test_the_seed_decides_everything(folders: DemoFolders, other: DemoFolders, tmp_path: Path) -> None:
    again = write_images(tmp_path / "again", seed=0)
    assert content(again.train.parent) == content(folders.train.parent)
    assert numbers(other.test) != numbers(folders.test)
    assert other.few.read_text() != folders.few.read_text()
    assert content(other.ood) != content(folders.ood)


def test_the_seed_decides_which_class_is_rare(folders: DemoFolders, other: DemoFolders) -> None:
    rare = [find_samples(each.train, each.few).counts_k.argmin() for each in (folders, other)]
    assert rare[0] != rare[1]
