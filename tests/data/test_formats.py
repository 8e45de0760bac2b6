"""Image files of every format, upright and in 8 bits."""

import io
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from edgeoe.data import decoding, formats
from edgeoe.data.decoding import open_image
from edgeoe.data.formats import readable_suffixes, remedy_for, upright
from edgeoe.data.images import Images
from edgeoe.data.preprocess import Preprocess

PREPROCESS = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


def halves() -> Image.Image:
    """8x8, red above, blue below."""
    image = Image.new("RGB", (8, 8), (250, 0, 0))
    image.paste((0, 0, 250), (0, 4, 8, 8))
    return image


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def fresh() -> Iterator[None]:
    """What is readable is found out anew in this test, and afterwards."""
    readable_suffixes.cache_clear()
    decoding._register_heic.cache_clear()
    yield
    readable_suffixes.cache_clear()
    decoding._register_heic.cache_clear()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize(("orientation", "transpose"), [(3, 3), (6, 2), (8, 4)])
def test_the_orientation_that_a_camera_noted_is_applied(
    suffix: str, orientation: int, transpose: int, tmp_path: Path
) -> None:
    halves().transpose(Image.Transpose(transpose)).save(tmp_path / f"a{suffix}", exif=oriented(orientation))
    halves().save(tmp_path / f"b{suffix}")
    turned, plain = Images([tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"], PREPROCESS).rows([0, 1])
    assert np.abs(turned[:, ::7].astype(int) - plain[:, ::7].astype(int)).max() < 30, "red above, as it was taken"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"nonsense"])
def test_a_broken_exif_block_costs_no_image(exif: bytes, tmp_path: Path) -> None:
    halves().save(tmp_path / "a.jpg", exif=exif)
    with open_image(tmp_path / "a.jpg") as image:
        assert upright(image).size == (8, 8)


def test_the_first_page_and_the_first_frame_are_taken(tmp_path: Path) -> None:
    others = [Image.new("RGB", (8, 8), "green")]
    halves().save(tmp_path / "a.tif", save_all=True, append_images=others)
    halves().save(tmp_path / "b.gif", save_all=True, append_images=others)
    for row in Images([tmp_path / "a.tif", tmp_path / "b.gif"], PREPROCESS).rows([0, 1]):
        np.testing.assert_array_equal(row, np.asarray(halves()).transpose(2, 0, 1))


def test_a_tiff_of_16_bits_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(tmp_path / "a.tif")
    assert (Images([tmp_path / "a.tif"], PREPROCESS).rows([0]) == 0x80).all()


def test_a_gif_with_a_transparent_colour_and_a_jpeg_for_print_are_read(tmp_path: Path) -> None:
    halves().convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.gif", transparency=0)
    halves().convert("CMYK").save(tmp_path / "b.jpg")
    rows = Images([tmp_path / "a.gif", tmp_path / "b.jpg"], PREPROCESS).rows([0, 1])
    assert (rows[:, 0, 0, 0] > 200).all()
    assert (rows[:, 2, 7, 7] > 200).all()


def test_a_jpeg_of_a_phone_that_holds_several_pictures_is_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    halves().save(stream, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), "green")])
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert Images([tmp_path / "a.jpg"], PREPROCESS).rows([0])[0, 0, 0, 0] > 200


@pytest.mark.parametrize(
    ("suffix", "remedy"),
    [(".cr2", "convert them to PNG or JPEG"), (".txt", None), ("", None), (".jpg", None), (".tif", None)],
)
def test_a_suffix_that_is_an_images_has_a_remedy(suffix: str, remedy: str | None) -> None:
    assert remedy_for(suffix) == remedy


def test_heic_is_read_where_pillow_heif_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: None) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert ".heic" not in readable_suffixes()
    assert remedy_for(".heic") == "pip install pillow-heif to read them"
    readable_suffixes.cache_clear()
    registered: list[str] = []
    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = lambda: registered.append("once")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    monkeypatch.setattr(formats, "find_spec", lambda name: module)
    assert {".heic", ".heif"} < readable_suffixes()
    for name in ("a.heic", "b.heif"):
        halves().save(tmp_path / name, "PNG")
        with open_image(tmp_path / name) as image:
            assert image.size == (8, 8)
    assert registered == ["once"]


@pytest.mark.skipif(not ("avif" in features.modules and features.check("avif")), reason="this Pillow knows no AVIF")
def test_avif_is_read_where_pillow_knows_it(tmp_path: Path) -> None:
    assert ".avif" in readable_suffixes()
    halves().save(tmp_path / "a.avif")
    assert Images([tmp_path / "a.avif"], PREPROCESS).rows([0])[0, 0, 0, 0] > 200
