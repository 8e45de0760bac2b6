"""The demo's images."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeoe.data.samples import find_samples, find_test
from edgeoe.demo.data import COUNTS, TRAINING, DemoFolders, draw_few, letters, load_digits, write_images

SHEET = "012345678901234567890123456789"  # how each person's sheet begins


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> DemoFolders:
    train, test = load_digits()
    return write_images(tmp_path_factory.mktemp("demo") / "images", train=train, test=test, seeds=[3, 4])


def digests(folder: Path) -> list[str]:
    """Of every file below `folder`."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.png"))]


def test_training_and_test_digits_are_disjoint_and_all_there_are(folders: DemoFolders) -> None:
    train, test = load_digits()
    assert (len(train.labels), len(test.labels)) == (TRAINING, 1797 - TRAINING)
    assert set(digests(folders.train)) & set(digests(folders.test)) == set()
    assert len(digests(folders.train)) + len(digests(folders.test)) == 1797


def test_nobody_wrote_digits_of_both_parts() -> None:
    train, test = load_digits()
    for part in (train, test):
        assert "".join(map(str, part.labels[: len(SHEET)])) == SHEET


@given(st.integers(0, 2**32))
def test_every_draw_has_the_counts_and_no_digit_twice(seed: int) -> None:
    labels = np.arange(300) % 10
    drawn = draw_few(labels, seed=seed)
    assert len(set(drawn.tolist())) == len(drawn) == sum(COUNTS)
    assert sorted(np.bincount(labels[drawn], minlength=10), reverse=True) == list(COUNTS)


def test_the_few_samples_are_five_a_class_with_imbalance_20() -> None:
    assert sum(COUNTS) == 5 * len(COUNTS) == 50
    assert max(COUNTS) / min(COUNTS) == 20


def test_the_seed_decides_which_classes_are_rare(folders: DemoFolders) -> None:
    rare = [find_samples(folders.train, few).counts_k.argsort(kind="stable")[:3].tolist() for few in folders.few]
    assert rare[0] != rare[1]


def test_the_lists_name_the_digits_that_were_drawn(folders: DemoFolders) -> None:
    train, _ = load_digits()
    pixels = {train.pixels[number].tobytes() for number in draw_few(train.labels, seed=3)}
    few = find_samples(folders.train, folders.few[0])
    assert {np.asarray(Image.open(path)).tobytes() for path in few.paths} == pixels


def test_every_class_can_be_tested(folders: DemoFolders) -> None:
    assert find_test(folders.test, tuple("0123456789")).counts_k.min() > 40


@pytest.mark.parametrize("part", ["train", "test", "ood"])
def test_pictures_are_small_and_grey_and_not_blank(folders: DemoFolders, part: str) -> None:
    paths = sorted(getattr(folders, part).rglob("*.png"))[:50]
    assert len(paths) == 50
    for path in paths:
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            assert np.asarray(image).std() > 0


def test_there_are_2000_letters_without_labels(folders: DemoFolders) -> None:
    assert len(list(folders.ood.iterdir())) == 2000


def test_letters_are_the_same_for_the_same_seed_only() -> None:
    first, again, other = ([letter.tobytes() for letter in letters(20, seed=seed)] for seed in (0, 0, 1))
    assert first == again != other
