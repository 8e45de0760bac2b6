"""Image files as rows of pixels."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from edgeoe.data.images import Images
from edgeoe.data.listing import list_images
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import DataError

PREPROCESS = Preprocess(size=(10, 12), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def folder(tmp_path: Path, pictures: Path) -> Path:
    """Three pictures, a file that is none, and one that was cut off."""
    for number, name in enumerate(("a.jpg", "c.jpg", "e.jpg")):
        shutil.copy(pictures / f"ood/{2 * number:02d}.jpg", tmp_path / name)
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "d.jpg").write_bytes((pictures / "ood/06.jpg").read_bytes()[:-200])
    return tmp_path


@pytest.fixture(scope="module")
def both(pictures: Path) -> tuple[Images, Images]:
    """The same pictures in memory and streamed."""
    paths = list_images(pictures / "ood").images
    return Images(paths, PREPROCESS), Images(paths, PREPROCESS, memory_bytes=0)


@examples(deadline=None, max_examples=30)
@given(indices=st.lists(st.integers(0, 59), min_size=1, max_size=10))
def test_rows_are_the_same_in_memory_and_streamed(both: tuple[Images, Images], indices: list[int]) -> None:
    memory, streamed = both
    rows = memory.rows(indices)
    assert rows.shape == (len(indices), 3, 10, 12)
    np.testing.assert_array_equal(rows, streamed.rows(indices))
    np.testing.assert_array_equal(rows, streamed.rows(np.asarray(indices)))


def test_rows_come_in_the_order_asked_for(both: tuple[Images, Images]) -> None:
    images, _ = both
    assert images.memory is not None
    assert len(images) == len(images.paths) == 60
    np.testing.assert_array_equal(images.rows([7, 7, 0]), images.memory[[7, 7, 0]])
    with Image.open(images.paths[7]) as image:
        np.testing.assert_array_equal(images.rows([7])[0], PREPROCESS.pixels(image))


@pytest.mark.parametrize(("spare", "held"), [(0, True), (-1, False)])
def test_images_are_held_in_memory_where_they_fit(pictures: Path, spare: int, held: bool) -> None:
    paths = list_images(pictures / "train").images
    images = Images(paths, PREPROCESS, memory_bytes=len(paths) * 3 * 10 * 12 + spare)
    assert (images.memory is not None) == held


@pytest.mark.parametrize("memory_bytes", [None, 0])
def test_a_file_that_is_no_image_is_refused_by_name(folder: Path, memory_bytes: int | None) -> None:
    with pytest.raises(DataError, match=r"b\.png: can't be read as an image \(.*\)\. Remove or replace it\.$"):
        Images([folder / "a.jpg", folder / "b.png"], PREPROCESS, memory_bytes=memory_bytes)


def test_an_image_that_was_cut_off_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(DataError, match=r"d\.jpg: can't be read as an image"):
        Images([folder / "a.jpg", folder / "d.jpg"], PREPROCESS)


def test_a_streamed_image_that_was_cut_off_is_refused_by_name_when_read(folder: Path) -> None:
    images = Images([folder / "a.jpg", folder / "d.jpg"], PREPROCESS, memory_bytes=0)
    with pytest.raises(DataError, match=r"d\.jpg: can't be read as an image"):
        images.rows([0, 1])


def test_a_file_that_is_gone_is_refused_by_name(folder: Path) -> None:
    images = Images([folder / "a.jpg", folder / "c.jpg"], PREPROCESS, memory_bytes=0)
    (folder / "c.jpg").unlink()
    with pytest.raises(DataError, match=r"c\.jpg: can't be read as an image"):
        images.rows([1])


def test_unreadable_files_may_be_left_out(folder: Path) -> None:
    images = Images(list_images(folder).images, PREPROCESS, skip_unreadable=True)
    assert [path.name for path in images.paths] == ["a.jpg", "c.jpg", "e.jpg"]
    assert [path.name for path in images.skipped] == ["b.png", "d.jpg"]
    with Image.open(folder / "c.jpg") as image:
        np.testing.assert_array_equal(images.rows([1])[0], PREPROCESS.pixels(image))


def test_streamed_files_that_do_not_open_may_be_left_out(folder: Path) -> None:
    images = Images(list_images(folder).images, PREPROCESS, skip_unreadable=True, memory_bytes=0)
    assert [path.name for path in images.paths] == ["a.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert [path.name for path in images.skipped] == ["b.png"]


def test_no_files_are_no_images() -> None:
    assert len(Images([], PREPROCESS)) == 0


@pytest.mark.parametrize("memory_bytes", [None, 0])
def test_every_file_advances_the_progress(folder: Path, memory_bytes: int | None) -> None:
    seen: list[str | int] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
        seen.extend([title, total])
        yield lambda: seen.append("one")

    paths = list_images(folder).images
    Images(paths, PREPROCESS, memory_bytes=memory_bytes, skip_unreadable=True, progress=progress, title="Looking")
    assert seen == ["Looking", 5, *["one"] * 5]
