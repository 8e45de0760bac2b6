"""The OOD pool."""

import shutil
from pathlib import Path

import pytest

from edgeoe.data.pool import load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import DataError

PREPROCESS = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


def test_the_pool_is_every_image_at_any_depth(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = load_pool(pictures / "ood", PREPROCESS)
    assert len(pool) == len(pool.images) == 60
    assert pool.images.rows([59]).shape == (1, 3, 8, 8)
    assert caplog.messages == []


def test_unreadable_images_are_skipped_and_reported(
    tmp_path: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(pictures / "ood/00.jpg", tmp_path / "good.jpg")
    for name in ("bad.jpg", "empty.png"):
        (tmp_path / name).touch()
    assert load_pool(tmp_path, PREPROCESS).images.paths == (tmp_path / "good.jpg",)
    assert caplog.messages == [f"skipped 2 unreadable OOD image(s), the first: {tmp_path / 'bad.jpg'}"]


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["bad.jpg"]])
def test_a_pool_without_a_readable_image_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"no readable images for the OOD pool\. Give a folder of images of any kind: \."
    ):
        load_pool(tmp_path, PREPROCESS)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"away: no such folder\.$"):
        load_pool(tmp_path / "away", PREPROCESS)


def test_images_that_can_not_be_read_here_are_reported(
    tmp_path: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(pictures / "ood/00.jpg", tmp_path / "good.jpg")
    (tmp_path / "raw.nef").touch()
    load_pool(tmp_path, PREPROCESS)
    assert caplog.messages == [f"skipped 1 .nef file(s) (first: {tmp_path / 'raw.nef'}): convert them to PNG or JPEG."]
