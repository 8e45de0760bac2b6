"""From a picture of any kind to a network's input."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torchvision.transforms import functional as torchvision

from edgeoe.codec import from_json
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import ConfigError
from edgeoe.settings import PreprocessSettings

RGB = Preprocess(size=(4, 4), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
GREY = Preprocess(size=(4, 4), mean=(0.5,), std=(0.2,))
RED = (200, 0, 0)


def picture(width: int, height: int, *, mode: str = "RGB") -> Image.Image:
    """A picture of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def halves(mode: str) -> Image.Image:
    """8x4, its left half black and its right half white."""
    image = Image.new("L", (8, 4), 0)
    image.paste(255, (4, 0, 8, 4))
    return image.convert(mode)


CHANNELS = st.sampled_from([1, 3])
PREPROCESSES = CHANNELS.flatmap(
    lambda channels: st.builds(
        Preprocess,
        size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
        mean=st.tuples(*[st.just(0.0) | st.floats(1e-9, 1)] * channels),
        std=st.tuples(*[st.floats(0.01, 1)] * channels),
        interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
        crop_fraction=st.floats(0.2, 1),
    )
)


@examples(deadline=None, max_examples=200)
@given(
    preprocess=PREPROCESSES,
    extent=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"]),
)
def test_the_result_always_has_the_shape_asked_for(preprocess: Preprocess, extent: tuple[int, int], mode: str) -> None:
    pixels = preprocess.pixels(picture(*extent, mode=mode))
    assert pixels.shape == preprocess.shape == (preprocess.channels, *preprocess.size)
    assert pixels.dtype == np.uint8


@examples(deadline=None)
@given(
    preprocess=PREPROCESSES,
    extent=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_one_colour_stays_that_colour_at_any_size(
    preprocess: Preprocess, extent: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    image = Image.new("RGB", extent, colour)
    expected: tuple[Any, ...] = colour if preprocess.channels == 3 else (image.convert("L").getpixel((0, 0)),)
    pixels = preprocess.pixels(image)
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.reshape(expected, (-1, 1, 1)), pixels.shape))


def test_a_picture_that_fits_is_taken_as_it_is() -> None:
    image = picture(4, 4)
    np.testing.assert_array_equal(RGB.pixels(image), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("extent", [(48, 24), (24, 48), (24, 24), (96, 24)])
def test_resizing_and_cropping_are_torchvisions(extent: tuple[int, int]) -> None:
    image = picture(*extent)
    expected = torchvision.center_crop(torchvision.resize(image, [12]), [12, 12])
    got = replace(RGB, size=(12, 12)).pixels(image)
    np.testing.assert_array_equal(got, np.asarray(expected).transpose(2, 0, 1))


def test_size_is_height_and_width() -> None:
    pixels = replace(GREY, size=(4, 8)).pixels(halves("RGB"))
    np.testing.assert_array_equal(pixels, np.repeat([[[0] * 4 + [255] * 4]], 4, axis=1))


def test_what_is_too_wide_loses_both_sides_alike() -> None:
    np.testing.assert_array_equal(GREY.pixels(halves("L")), [[[0, 0, 255, 255]] * 4])


def test_a_small_picture_is_enlarged() -> None:
    pixels = replace(GREY, size=(8, 16), interpolation="nearest").pixels(halves("L"))
    np.testing.assert_array_equal(pixels, [[[0] * 8 + [255] * 8] * 8])


def test_the_crop_fraction_is_the_central_share_that_is_kept() -> None:
    framed = Image.new("L", (8, 8), 255)
    framed.paste(0, (2, 2, 6, 6))
    assert replace(GREY, crop_fraction=0.5).pixels(framed).max() == 0
    assert replace(GREY, interpolation="nearest").pixels(framed).max() == 255


def test_interpolation_is_what_was_asked_for() -> None:
    image = picture(16, 16, mode="L")
    names: tuple[Any, ...] = ("nearest", "bilinear", "bicubic", "lanczos")
    made = [replace(GREY, interpolation=name).pixels(image) for name in names]
    assert len({pixels.tobytes() for pixels in made}) == 4


def test_grey_pictures_fill_three_channels_alike() -> None:
    pixels = RGB.pixels(picture(4, 4, mode="L"))
    assert pixels.std() > 0
    assert (pixels == pixels[0]).all()


def test_colours_become_grey_by_luminance() -> None:
    grey = GREY.pixels(Image.new("RGB", (4, 4), RED))
    assert set(grey.ravel().tolist()) == {Image.new("RGB", (1, 1), RED).convert("L").getpixel((0, 0))}


def test_an_alpha_channel_is_dropped() -> None:
    image = Image.new("RGBA", (4, 4), (*RED, 10))
    assert [set(channel.ravel().tolist()) for channel in RGB.pixels(image)] == [{200}, {0}, {0}]
    assert GREY.pixels(image).shape == (1, 4, 4)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_palette_with_transparency_keeps_its_colours(transparency: int | bytes) -> None:
    image = Image.new("RGB", (4, 4), RED).convert("P", palette=Image.Palette.ADAPTIVE)
    image.info["transparency"] = transparency
    assert [set(channel.ravel().tolist()) for channel in RGB.pixels(image)] == [{200}, {0}, {0}]


@examples(deadline=None)
@given(
    preprocess=PREPROCESSES, raw=arrays.arrays(np.uint8, st.tuples(st.integers(0, 3), st.just(3), *[st.just(4)] * 2))
)
def test_normalising_is_torchvisions(preprocess: Preprocess, raw: np.ndarray) -> None:
    pixels = raw[:, : preprocess.channels]
    expected = torchvision.normalize(
        torch.from_numpy(pixels.copy()).float() / 255, list(preprocess.mean), list(preprocess.std)
    )
    got = preprocess.normalise(pixels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_the_teachers_own_preprocessing_stands_where_nothing_else_is_set() -> None:
    assert Preprocess.resolve(RGB, PreprocessSettings()) == RGB


def test_settings_are_laid_over_the_teachers_own() -> None:
    given = PreprocessSettings(size=(8, 9), interpolation="lanczos", crop_fraction=0.9)
    assert Preprocess.resolve(RGB, given) == replace(RGB, size=(8, 9), interpolation="lanczos", crop_fraction=0.9)


def test_settings_alone_are_enough() -> None:
    given = PreprocessSettings(size=(4, 4), mean=(0.5,), std=(0.2,))
    assert Preprocess.resolve(None, given) == GREY


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (PreprocessSettings(), "size, mean, std"),
        (PreprocessSettings(size=(4, 4)), "mean, std"),
        (PreprocessSettings(size=(4, 4), std=(0.5,)), "mean"),
        (PreprocessSettings(mean=(0.5,), std=(0.5,)), "size"),
    ],
)
def test_what_nobody_says_must_be_set(given: PreprocessSettings, missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"does not declare its preprocessing: set {missing} under \[prep"):
        Preprocess.resolve(None, given)


@pytest.mark.parametrize(
    ("own", "mean", "std", "lengths"),
    [
        (None, (0.5, 0.5), (0.5, 0.5), "2 and 2"),
        (None, (0.5,), (0.5, 0.5, 0.5), "1 and 3"),
        (None, (), (), "0 and 0"),
        (RGB, (0.5,), None, "1 and 3"),
    ],
)
def test_means_and_deviations_must_fit_together(
    own: Preprocess | None, mean: tuple[float, ...], std: tuple[float, ...] | None, lengths: str
) -> None:
    with pytest.raises(ConfigError, match=rf"must both have 1 value \(greyscale\) or 3 \(RGB\)\. Got {lengths}\."):
        Preprocess.resolve(own, PreprocessSettings(size=(4, 4), mean=mean, std=std))


@given(preprocess=PREPROCESSES)
def test_json_and_back_is_the_same(preprocess: Preprocess) -> None:
    assert from_json(Preprocess, json.loads(json.dumps(asdict(preprocess)))) == preprocess


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped() -> None:
    grey = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    pixels = Preprocess(size=(4, 4), mean=(0.5,), std=(0.5,)).pixels(grey)
    assert (pixels == 0x80).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_without_a_stated_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="unknown value range"):
        Preprocess(size=(4, 4), mean=(0.5,), std=(0.5,)).pixels(Image.new(mode, (4, 4)))
