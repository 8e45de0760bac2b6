"""Labelled images: folders of classes and lists."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, find_test, load_samples, rarest
from edgeoe.errors import DataError

PREPROCESS = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with 2, 0 and 1 images; the files are empty."""
    for name in ("train/dog/b.png", "train/dog/a.JPG", "train/ant/notes.txt", "train/cat/deep/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "train"


def write_list(folder: Path, text: str) -> Path:
    path = folder.parent / "few.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_classes_are_the_folders_in_alphabetical_order(folder: Path) -> None:
    found = find_samples(folder)
    assert found.classes == ("ant", "cat", "dog")
    assert found.paths == (folder / "cat/deep/c.webp", folder / "dog/a.JPG", folder / "dog/b.png")
    assert found.labels == (1, 2, 2)


def test_an_empty_class_counts_0(folder: Path) -> None:
    assert find_samples(folder).counts_k.tolist() == [0, 1, 2]


def test_hidden_folders_and_loose_files_are_no_classes(folder: Path) -> None:
    (folder / ".cache").mkdir()
    (folder / "loose.png").touch()
    assert find_samples(folder).classes == ("ant", "cat", "dog")


def test_folders_without_images_are_refused_unless_their_names_are_enough(tmp_path: Path) -> None:
    for name in ("train/dog", "train/ant"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match="train: no images"):
        find_samples(tmp_path / "train")
    found = find_samples(tmp_path / "train", none_allowed=True)
    assert (found.classes, found.paths, found.labels) == (("ant", "dog"), (), ())
    assert found.counts_k.tolist() == [0, 0]
    assert len(load_samples(found, PREPROCESS).labels) == 0


def test_an_empty_list_is_refused_even_where_the_names_of_classes_are_enough(folder: Path) -> None:
    with pytest.raises(DataError, match=r"few\.txt: lists no images: "):
        find_samples(folder, write_list(folder, "# none yet\n"), none_allowed=True)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"away: no such folder\. It must hold one folder of images per class\.$"):
        find_samples(tmp_path / "away")


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, classes: int) -> None:
    for number in range(classes):
        (tmp_path / str(number)).mkdir()
    with pytest.raises(DataError, match=rf"one folder of images per class, at least 2\. Got {classes} folder\(s\)\.$"):
        find_samples(tmp_path)


def test_classes_without_any_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"no images\. Allowed: (\.\w+, )+\.webp\.$"):
        find_samples(tmp_path)


def test_a_list_narrows_the_folder(folder: Path) -> None:
    path = write_list(folder, "# few\n\n  dog/b.png  \n   # more\ndog/b.png\n./cat/deep/c.webp\n")
    found = find_samples(folder, path)
    assert found.paths == (folder / "cat/deep/c.webp", folder / "dog/b.png")
    assert found.labels == (1, 2)
    assert found.classes == ("ant", "cat", "dog")
    assert found.counts_k.tolist() == [0, 1, 1]


def test_classes_may_be_given_in_the_order_of_the_outputs(folder: Path) -> None:
    found = find_samples(folder, classes=("dog", "bee", "ant", "cat"))
    assert found.classes == ("dog", "bee", "ant", "cat")
    assert found.paths == (folder / "cat/deep/c.webp", folder / "dog/a.JPG", folder / "dog/b.png")
    assert found.labels == (3, 0, 0)
    assert find_samples(folder, write_list(folder, "dog/b.png"), classes=found.classes).labels == (0,)


def test_a_folder_that_is_none_of_the_given_classes_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"dog: no class 'dog' among the 3 of --classes\. Did you mean 'dogs'\?$"):
        find_samples(folder, classes=("dogs", "cat", "ant"))


def test_with_given_classes_one_folder_is_enough(folder: Path) -> None:
    shutil.rmtree(folder / "ant")
    shutil.rmtree(folder / "cat")
    assert find_samples(folder, classes=("cat", "dog")).counts_k.tolist() == [0, 2]


@pytest.mark.parametrize("top", [("train",), ("train", "Test"), ("images",), ("train", "cat")])
def test_folders_one_level_too_deep_are_refused_with_the_remedy(top: tuple[str, ...], tmp_path: Path) -> None:
    for name in top:
        for kind in ("cat", "dog"):
            (tmp_path / "few" / name / kind).mkdir(parents=True)
            (tmp_path / "few" / name / kind / "a.png").touch()
    with pytest.raises(DataError) as refused:
        find_samples(tmp_path / "few")
    deeper = tmp_path / "few" / sorted(name for name in top if name != "cat")[0]
    assert str(refused.value) == (
        f"{deeper}: holds folders of images (cat, dog) and is not a class folder itself. "
        f"Did you mean --samples {deeper}?"
    )
    with pytest.raises(DataError, match=rf"Did you mean --test {deeper}\?$"):
        find_test(tmp_path / "few", ("cat", "dog"))


def test_a_class_may_be_called_as_a_split_is(tmp_path: Path) -> None:
    for name in ("few/train/old/a.png", "few/train/new/a.png", "few/bus/a.png", "few/test/a.png", "few/test/b/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copytree(tmp_path / "few", tmp_path / "plain", ignore=shutil.ignore_patterns("old"))
    assert find_samples(tmp_path / "plain").classes == ("bus", "test", "train")
    assert find_samples(tmp_path / "few", classes=("bus", "train", "test")).counts_k.tolist() == [1, 2, 2]


def test_a_folder_that_holds_images_beside_folders_of_them_is_a_class(tmp_path: Path) -> None:
    for image in ("train/x.png", "train/near/a.png", "train/far/b.png", "ship/c.png"):
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / image).touch()
    found = find_samples(tmp_path)
    assert found.classes == ("ship", "train")
    assert found.counts_k.tolist() == [1, 3]


def test_what_is_not_used_is_told(folder: Path) -> None:
    for name in ("loose.png", "loose.heic", "readme.txt", "__MACOSX/dog/a.png", "dog/raw.dng", "cat/raw.dng"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = find_samples(folder)
    assert found.classes == ("ant", "cat", "dog")
    assert [(each.what, each.count, each.first) for each in found.skipped] == [
        ("system folder(s)", 1, f"{folder}/__MACOSX"),
        ("image file(s) beside the class folders", 2, f"{folder}/loose.heic"),
        (".dng file(s)", 2, f"{folder}/cat/raw.dng"),
    ]


def test_without_any_image_what_is_not_used_is_part_of_the_reason(tmp_path: Path) -> None:
    for name in ("few/cat/a.cr2", "few/dog/a.cr2"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"few: no images\. Allowed: .*Note: skipped 2 \.cr2 file\(s\) \(first: .*convert"
    ):
        find_samples(tmp_path / "few")


def test_test_images_take_the_labels_of_the_few_samples(folder: Path) -> None:
    found = find_test(folder, ("zebra", "dog", "cat", "ant"))
    assert found.classes == ("zebra", "dog", "cat", "ant")
    assert [(path.parts[-2], label) for path, label in zip(found.paths, found.labels, strict=True)] == [
        ("deep", 2),
        ("dog", 1),
        ("dog", 1),
    ]
    assert found.counts_k.tolist() == [0, 2, 1, 0]


def test_a_test_folder_of_an_unknown_class_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"dog: no class 'dog' among the labelled samples\. Did you mean 'dogs'\?$"):
        find_test(folder, ("ant", "cat", "dogs"))


@pytest.mark.parametrize(("n", "expected"), [(1, (1,)), (3, (1, 4, 0)), (9, (1, 4, 0, 3, 2))])
def test_the_rarest_come_first_and_ties_in_class_order(n: int, expected: tuple[int, ...]) -> None:
    assert rarest(np.array([5, 0, 7, 5, 0]), n) == expected


@given(counts=st.lists(st.integers(0, 5), min_size=1), n=st.integers(1, 10))
def test_no_class_left_out_is_rarer_than_a_rare_one(counts: list[int], n: int) -> None:
    rare = rarest(np.asarray(counts), n)
    others = [k for k in range(len(counts)) if k not in rare]
    assert len(rare) == len(set(rare)) == min(n, len(counts))
    assert all((counts[r], r) < (counts[o], o) for r in rare for o in others)


def test_images_and_labels_are_loaded_together(pictures: Path) -> None:
    files = find_samples(pictures / "train")
    samples = load_samples(files, PREPROCESS)
    assert samples.classes == ("circle", "cross", "square")
    assert samples.labels.tolist() == [0] * 12 + [1] * 5 + [2]
    assert samples.labels.dtype == np.int64
    assert samples.counts_k.tolist() == files.counts_k.tolist() == [12, 5, 1]
    assert samples.images.paths == files.paths
    assert samples.images.rows([0]).shape == (1, 1, 8, 8)


def test_a_sample_that_is_no_image_is_refused_by_name(folder: Path, pictures: Path) -> None:
    shutil.copy(pictures / "test/cross/00.png", folder / "dog/b.png")
    with pytest.raises(DataError, match=r"c\.webp: can't be read as an image"):
        load_samples(find_samples(folder), PREPROCESS)
