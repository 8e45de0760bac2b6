"""A look at labelled images."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from edgeoe.data.sample_report import inspect_samples
from edgeoe.data.samples import find_samples


@pytest.fixture
def folder(tmp_path: Path, pictures: Path) -> Path:
    """The 12, 5 and 1 pictures of train/, to change as the test likes."""
    return shutil.copytree(pictures / "train", tmp_path / "train")


def test_images_are_counted_per_class(folder: Path) -> None:
    report = inspect_samples(find_samples(folder))
    assert report.classes == ("circle", "cross", "square")
    assert report.counts == (12, 5, 1)
    assert report.imbalance_ratio == 12
    assert (report.empty, report.unreadable, report.duplicates) == ((), (), ())


def test_a_class_without_images_is_named_and_left_out_of_the_imbalance(folder: Path) -> None:
    (folder / "square/00.png").unlink()
    report = inspect_samples(find_samples(folder))
    assert report.counts == (12, 5, 0)
    assert report.empty == ("square",)
    assert report.imbalance_ratio == 12 / 5


def test_unreadable_images_are_named_and_not_counted(folder: Path) -> None:
    text, cut = folder / "circle/00.png", folder / "square/00.png"
    text.write_text("no picture")
    cut.write_bytes(cut.read_bytes()[:-100])
    report = inspect_samples(find_samples(folder))
    assert report.unreadable == (str(text), str(cut))
    assert report.counts == (11, 5, 0)
    assert report.empty == ("square",)


def test_nothing_readable_has_no_imbalance(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_text("no picture")
    report = inspect_samples(find_samples(folder))
    assert (report.counts, report.imbalance_ratio, len(report.unreadable)) == ((0, 0, 0), 0.0, 18)


def test_the_same_pixels_are_found_in_any_format_and_class(folder: Path) -> None:
    original, copy, other = folder / "circle/00.png", folder / "circle/copy.bmp", folder / "square/copy.png"
    with Image.open(original) as image:
        image.save(copy)
        image.convert("RGBA").save(other)
    report = inspect_samples(find_samples(folder))
    assert report.duplicates == ((str(original), str(copy), str(other)),)
    assert report.counts == (13, 5, 2)


def test_the_same_bytes_in_another_shape_are_no_duplicates(folder: Path) -> None:
    for name, extent in (("wide", (6, 2)), ("tall", (2, 6))):
        Image.new("RGB", extent, (1, 2, 3)).save(folder / f"circle/{name}.png")
    assert inspect_samples(find_samples(folder)).duplicates == ()


def test_a_list_narrows_what_is_looked_at(folder: Path) -> None:
    few = folder.parent / "few.txt"
    few.write_text("circle/00.png\ncross/01.png\n")
    assert inspect_samples(find_samples(folder, few)).counts == (1, 1, 0)


def test_every_image_advances_the_progress(folder: Path) -> None:
    seen: list[str | int] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
        seen.extend([title, total])
        yield lambda: seen.append("one")

    (folder / "circle/00.png").write_text("no picture")
    inspect_samples(find_samples(folder), progress=progress)
    assert seen == ["Reading images", 18, *["one"] * 18]
