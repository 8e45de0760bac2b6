"""Images that are in two of samples, pool and test images."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from edgeoe.data.images import Images
from edgeoe.data.overlap import copies
from edgeoe.data.pool import Pool, load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import Samples, find_samples, find_test, load_samples
from edgeoe.run.directory import Run
from edgeoe.stages.overlap import report_samples_in_pool, report_test_overlap, write_content

PREPROCESS = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def place(tmp_path: Path, pictures: Path) -> Path:
    """Copies of train/, test/ and ood/ that share nothing, and run/ to write into."""
    for name in ("train", "test", "ood"):
        shutil.copytree(pictures / name, tmp_path / name)
    return tmp_path


def few(place: Path) -> Samples:
    return load_samples(find_samples(place / "train"), PREPROCESS)


def unseen(place: Path) -> Samples:
    return load_samples(find_test(place / "test", ("circle", "cross", "square")), PREPROCESS)


def streamed(images: Images) -> Images:
    return Images(images.paths, PREPROCESS, memory_bytes=0)


def test_sets_that_share_nothing_are_no_matter(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples, pool, run = few(place), load_pool(place / "ood", PREPROCESS), Run(place / "run")
    report_samples_in_pool(samples, pool)
    report_samples_in_pool(samples, Pool(streamed(pool.images)))
    write_content(run, samples, pool, folder=place / "train")
    report_test_overlap(run, unseen(place))
    assert caplog.messages == []


@pytest.mark.parametrize("stream", [False, True])
def test_samples_in_the_pool_are_told(stream: bool, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(place / "train/cross/00.png", place / "ood/deep/z.png")
    shutil.copy(place / "train/cross/00.png", place / "ood/z.png")
    pool = load_pool(place / "ood", PREPROCESS)
    report_samples_in_pool(few(place), Pool(streamed(pool.images)) if stream else pool)
    assert caplog.messages == [
        f"2 OOD image(s) are labelled samples, too (first: {place}/train/cross/00.png and {place}/ood/deep/z.png): "
        "OOD images must not belong to a class. Remove them from --ood."
    ]


def test_a_sample_in_another_format_is_told_where_the_pool_is_in_memory(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Image.open(place / "train/cross/00.png") as image:
        image.save(place / "ood/z.bmp")
    report_samples_in_pool(few(place), load_pool(place / "ood", PREPROCESS))
    assert "1 OOD image(s) are labelled samples" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_test_images_that_are_samples_or_ood_images_are_told(
    stream: bool, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(place / "train/cross/03.png", place / "test/cross/z.png")
    shutil.copy(place / "train/circle/03.png", place / "test/square/z.png")
    shutil.copy(place / "ood/00.jpg", place / "test/circle/z.jpg")
    samples, pool = few(place), load_pool(place / "ood", PREPROCESS)
    write_content(Run(place / "run"), samples, pool, folder=place / "train")
    test = unseen(place)
    if stream:
        test = Samples(streamed(test.images), test.labels, test.classes)
    report_test_overlap(Run(place / "run"), test)
    assert caplog.messages == [
        f"2 of 33 test images are labelled samples, too (first: {place}/test/cross/z.png and "
        "cross/03.png): accuracy on them does not carry over to new images. Remove them from --test.",
        f"1 of 33 test images are OOD images of the student, too (first: {place}/test/circle/z.jpg): accuracy on them "
        "does not carry over to new images. Remove them from --test.",
    ]


def test_of_a_streamed_pool_the_images_that_were_read_count(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(place / "ood/00.jpg", place / "test/circle/z.jpg")
    shutil.copy(place / "ood/02.jpg", place / "test/circle/y.jpg")
    images = streamed(load_pool(place / "ood", PREPROCESS).images)
    images.rows([0])
    assert [bool(digest) for digest in images.digests] == [True] + [False] * 59
    write_content(Run(place / "run"), few(place), Pool(images), folder=place / "train")
    report_test_overlap(Run(place / "run"), unseen(place))
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "1 of 32 test images are OOD images of the student"
    ]


def test_without_a_pool_and_without_samples_there_is_nothing_to_share(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(place / "train")
    for name in ("circle", "cross", "square"):
        (place / "train" / name).mkdir(parents=True)
    nothing = load_samples(find_samples(place / "train", none_allowed=True), PREPROCESS)
    write_content(Run(place / "run"), nothing, None, folder=place / "train")
    report_test_overlap(Run(place / "run"), unseen(place))
    report_test_overlap(Run(place / "a run of an earlier version"), unseen(place))
    assert caplog.messages == []


def test_only_files_of_the_same_bytes_are_copies(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "two"), ("c", "two"), ("d", "longer")):
        (tmp_path / name).write_text(content)
    assert copies([tmp_path / "a", tmp_path / "b"], [tmp_path / "c", tmp_path / "d"]) == [
        (tmp_path / "b", tmp_path / "c")
    ]
