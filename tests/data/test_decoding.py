"""Image files within limits: of formats, of one file, and of all that are decoded at the same time."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeoe.data import decoding
from edgeoe.data.decoding import MOST_ASPECT, MOST_BYTES, MOST_PIXELS, ByteBudget, in_order, open_image
from edgeoe.data.images import Images
from edgeoe.data.listing import Bounds
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.sample_list import listed_images
from edgeoe.data.sample_report import inspect_samples
from edgeoe.data.samples import SampleFiles, find_samples, find_test
from edgeoe.errors import DataError

PREPROCESS = Preprocess(size=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\nshowpage\n"


def png(path: Path, width: int, height: int) -> Path:
    """A greyscale PNG of a few kB that decodes to `width` x `height` black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def refused(path: Path, message: str) -> None:
    for memory_bytes in (None, 0):
        with pytest.raises(DataError, match=rf"{path.name}: can't be read as an image \({message}\)\. Remove"):
            Images([path], PREPROCESS, memory_bytes=memory_bytes)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    refused(
        png(tmp_path / "a.png", 13_300, 13_300),
        r"13,300 x 13,300 are 176\.9 million pixels; at most 89\.5 million of a PNG are decoded",
    )


def test_a_strip_is_refused(tmp_path: Path) -> None:
    refused(png(tmp_path / "a.png", 1, 20_000), "1 x 20,000 pixels; sides may differ by a factor of 256 at most")
    assert Images([png(tmp_path / "b.png", 2, 2 * MOST_ASPECT)], PREPROCESS).rows([0]).shape == (1, 3, 224, 224)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    refused(tmp_path / "a.png", "a file of 512 MiB; at most 512 MiB are read")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_photograph_of_more_pixels_is_decoded_at_half_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.jpg")
    monkeypatch.setattr(decoding, "MOST_PIXELS", 64 * 48)
    with open_image(tmp_path / "a.jpg") as image:
        assert image.size == (64, 48), "an ordinary one is decoded as it is"
    monkeypatch.setattr(decoding, "MOST_PIXELS", 64 * 48 - 1)
    with open_image(tmp_path / "a.jpg") as image:
        assert image.size == (32, 24)
    assert MOST_PIXELS == Image.MAX_IMAGE_PIXELS, "as where Pillow warns"


def test_a_webp_whose_decoder_takes_more_may_have_fewer_pixels(tmp_path: Path) -> None:
    Image.new("RGB", (7_400, 7_400)).save(tmp_path / "a.webp", quality=1, method=0)
    refused(tmp_path / "a.webp", r"7,400 x 7,400 are 54\.8 million pixels; at most 53\.7 million of a WEBP are decoded")


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tif"])
def test_no_other_decoder_is_started_whatever_the_name(name: str, tmp_path: Path) -> None:
    Image.init()
    assert "EPS" in Image.OPEN, "it would be, by Pillow"
    (tmp_path / name).write_bytes(EPS)
    refused(tmp_path / name, "cannot identify image file .*")


@pytest.mark.parametrize("kind", ["PPM", "PCX", "TGA", "ICO", "JPEG2000", "SGI"])
def test_other_formats_are_refused_under_the_name_of_a_photograph(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", kind)
    refused(tmp_path / "a.jpg", "cannot identify image file .*")


def test_image_files_are_opened_in_one_place() -> None:
    package = Path(decoding.__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    assert len(files) > 150
    opened = [path.name for path in files if re.search(r"Image\.open\(|PIL\.Image\.open|imread", path.read_text())]
    assert opened == ["decoding.py"]


@pytest.mark.parametrize("size", [(3, 700), (700, 3), (5, 1280), (40, 9000)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_cropping_first_gives_the_same_picture(
    size: tuple[int, int], interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (max(2, size[1] // 20), max(2, size[0] // 20), 3)).astype(np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)
    preprocess = Preprocess(size=(50, 60), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation=interpolation)  # type: ignore[arg-type]
    whole = preprocess.pixels(image).astype(int)
    monkeypatch.setattr("edgeoe.data.preprocess._MOST_RESIZED", 1)
    cropped = preprocess.pixels(image).astype(int)
    assert cropped.shape == whole.shape
    assert np.abs(cropped - whole).mean() < 3


def test_a_long_strip_takes_little_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak is known: 256 x 224 x 224 x 256 pixels would be 3.2 GB."""
    png(tmp_path / "a.png", 1, MOST_ASPECT)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from edgeoe.data.images import Images\n"
        "from edgeoe.data.preprocess import Preprocess\n"
        "preprocess = Preprocess(size=(1024, 1024), mean=(0.5,), std=(0.5,), crop_fraction=0.5)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "Images([Path(sys.argv[1])], preprocess, memory_bytes=0).rows([0])\n"
        "print((peak() - before) // 1024)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.png"], capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) < 64, "MiB"


@given(
    most=st.integers(1, 20),
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=30),
)
def test_never_more_bytes_are_taken_than_there_are(most: int, sizes: list[int]) -> None:
    budget, taken, peak, lock = ByteBudget(most), 0, 0, threading.Lock()

    def take(size: int) -> None:
        nonlocal taken, peak
        with budget.taking(size):
            with lock:
                taken += min(size, most)
                peak = max(peak, taken)
            with lock:
                taken -= min(size, most)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(take, sizes))
    assert peak <= most
    with budget.taking(most):
        pass


def test_images_are_decoded_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = tuple(png(tmp_path / f"{number}.png", 100, 100) for number in range(8))
    working, peak, lock = 0, 0, threading.Lock()
    monkeypatch.setattr(decoding, "_in_flight", ByteBudget(2 * 8 * 100 * 100))

    def slow(image: Image.Image) -> Image.Image:
        nonlocal working, peak
        with lock:
            working += 1
            peak = max(peak, working)
        time.sleep(0.02)
        with lock:
            working -= 1
        return image

    monkeypatch.setattr("edgeoe.data.sample_report.upright", slow)
    inspect_samples(SampleFiles(paths, (0,) * 8, ("one", "two")))
    assert peak == 2


@given(items=st.lists(st.integers(), max_size=30), ahead=st.integers(1, 40))
def test_results_come_in_order(items: list[int], ahead: int) -> None:
    with ThreadPoolExecutor(3) as threads:
        assert list(in_order(threads, lambda item: item + 1, items, ahead=ahead)) == [item + 1 for item in items]


@pytest.mark.parametrize("read", ["load", "stream", "inspect"])
def test_an_interruption_leaves_few_images_to_wait_for(
    read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200,000 files would be read to the end before the process ends, if all were submitted."""
    path = png(tmp_path / "a.png", 2, 2)
    paths, opened = [path] * 5000, []
    original = decoding.open_image

    @contextmanager
    def noted(path: Path) -> Iterator[Image.Image]:
        opened.append(path)
        with original(path) as image:
            yield image

    for place in ("edgeoe.data.decoding.open_image", "edgeoe.data.images.open_image"):
        monkeypatch.setattr(place, noted)

    @contextmanager
    def interrupting(title: str, total: int) -> Iterator[Callable[[], None]]:
        def advance() -> None:
            raise KeyboardInterrupt

        yield advance

    preprocess = Preprocess(size=(2, 2), mean=(0.5,), std=(0.5,))
    files = SampleFiles(tuple(paths), (0,) * len(paths), ("one", "two"))
    reads: dict[str, Callable[[], object]] = {
        "inspect": lambda: inspect_samples(files, progress=interrupting),
        "load": lambda: Images(paths, preprocess, progress=interrupting),
        "stream": lambda: Images(paths, preprocess, memory_bytes=0, progress=interrupting),
    }
    with pytest.raises(KeyboardInterrupt) as kept:  # and with it the frames, as until the process ends
        reads[read]()
    time.sleep(0.2)
    assert len(opened) < 200
    assert kept.value is not None


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder of classes, one of which is a link that leads out."""
    for name in ("few/cat", "store/dog"):
        (tmp_path / name).mkdir(parents=True)
        png(tmp_path / name / "a.png", 4, 4)
    (tmp_path / "few/dog").symlink_to(tmp_path / "store/dog")
    (tmp_path / "list.txt").write_text("dog/a.png\ncat/a.png\n")
    return tmp_path / "few"


def test_samples_and_test_images_follow_links_out_only_if_asked(linked: Path) -> None:
    refused = "few/dog: a link that leads out of .*few. Pass --follow-links"
    with pytest.raises(DataError, match=refused):
        find_samples(linked)
    with pytest.raises(DataError, match=refused):
        find_test(linked, ("cat", "dog"))
    assert len(find_samples(linked, follow_links=True).paths) == 2
    assert len(find_test(linked, ("cat", "dog"), follow_links=True).paths) == 2


def test_a_list_leads_no_further(linked: Path) -> None:
    list_file = linked.parent / "list.txt"
    with pytest.raises(DataError, match=r"list\.txt:1: .*dog/a\.png: a link that leads out"):
        listed_images(list_file, linked, ("cat", "dog"), Bounds(linked))
    assert len(listed_images(list_file, linked, ("cat", "dog"), Bounds(None))) == 2


def test_a_list_with_a_nul_is_refused_by_line(linked: Path) -> None:
    (linked.parent / "list.txt").write_text("cat/a.png\n\0cat/a.png\n")
    with pytest.raises(DataError, match=r"list\.txt:2: .* is not a path"):
        listed_images(linked.parent / "list.txt", linked, ("cat", "dog"), Bounds(linked))
