from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workers.attribution.heatmap import COLOURS, heatmap

SHAPES = st.tuples(st.integers(16, 90), st.integers(16, 300))


def example(shape: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=shape), random.integers(0, 256, (*shape, 3), dtype=np.uint8)


def body(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    left = (picture.shape[1] - width) // 2
    return picture[:height, left : left + width].astype(int)


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 99), st.floats(1e-6, 1e6))
def test_colours_follow_the_map_and_the_scale_its_units(shape, seed, factor):
    attribution, image = example(shape, seed)
    picture, scale = heatmap(attribution, image)
    scaled_picture, scaled = heatmap(attribution * factor, image)
    assert picture.dtype == np.uint8
    assert scaled == pytest.approx(scale * factor, rel=1e-9)
    assert np.abs(body(scaled_picture, shape) - body(picture, shape)).max() <= 1


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_a_mirrored_map_makes_a_mirrored_picture(shape, seed):
    attribution, image = example(shape, seed)
    picture, scale = heatmap(attribution, image)
    mirrored, same_scale = heatmap(attribution[:, ::-1], image[:, ::-1])
    assert same_scale == pytest.approx(scale, rel=1e-9)
    assert np.abs(body(mirrored, shape)[:, ::-1] - body(picture, shape)).max() <= 1


def test_red_speaks_for_the_class_and_blue_against_it():
    attribution = np.zeros((120, 120))
    attribution[20:40, 20:40], attribution[80:100, 80:100] = 1, -1
    picture = heatmap(attribution, np.full((120, 120, 3), 200, np.uint8))[0].astype(int)
    red, _, blue = np.moveaxis(body(picture, (120, 120)), -1, 0)
    assert red[30, 30] > blue[30, 30] + 80
    assert blue[90, 90] > red[90, 90] + 80
    assert red[30, 90] == blue[30, 90]


def test_no_attribution_leaves_the_pale_grey_photograph():
    image = example((64, 80), 3)[1]
    picture, scale = heatmap(np.zeros((64, 80)), image)
    shown = body(picture, (64, 80))
    assert scale == 0
    assert (shown == shown[..., :1]).all()
    assert shown.min() > 100
    grey = np.asarray(Image.fromarray(image).convert("L"))
    assert np.corrcoef(shown[..., 0].ravel(), grey.ravel())[0, 1] > 0.999


def test_speckle_of_both_signs_cancels_and_a_regions_sum_shows():
    attribution = np.where(np.add.outer(np.arange(120), np.arange(120)) % 2, 1.0, -1.0)
    attribution[20:60, 20:60] += 0.2
    picture, scale = heatmap(attribution, np.full((120, 120, 3), 255, np.uint8))
    red, _, blue = np.moveaxis(body(picture, (120, 120)), -1, 0)
    assert scale == pytest.approx(0.2, rel=0.1)
    assert red[40, 40] > blue[40, 40] + 80
    assert picture[90:110, 90:110].min() > 240


def test_a_lonely_pixel_still_has_a_scale():
    attribution = np.zeros((300, 300))
    attribution[150, 150] = 1
    assert heatmap(attribution, np.zeros((300, 300, 3), np.uint8))[1] > 0


@pytest.mark.parametrize("title", ["tabby: 87%", "a class with a very long name: " + "fox, " * 60 + "9%"])
def test_a_title_is_written_between_the_picture_and_the_colours(title):
    shape = (64, 224)
    plain, scale = heatmap(*example(shape, 7))
    picture, same = heatmap(*example(shape, 7), title=title)
    more = len(picture) - len(plain)
    assert same == scale and picture.shape[1] == plain.shape[1] and more >= 10
    assert (picture[: shape[0]] == plain[: shape[0]]).all() and (picture[shape[0] + more :] == plain[shape[0] :]).all()
    written = picture[shape[0] : shape[0] + more].max(axis=2)
    assert written.min() < 80 and written[:, [0, -1]].min() == 255


@pytest.mark.parametrize("shape", [(224, 224), (16, 16), (40, 500)])
def test_the_legend_shows_the_colours_from_minus_to_plus_below_the_picture(shape):
    picture, _ = heatmap(*example(shape, 7))
    legend = picture[shape[0] :]
    colours = legend.reshape(-1, 3).tolist()
    assert picture.shape[1] >= shape[1]
    assert legend.shape[0] >= 20
    assert COLOURS[0].tolist() in colours
    assert COLOURS[-1].tolist() in colours
    assert (legend.max(axis=2) < 80).any()  # ink


def test_drawing_needs_no_torch():
    code = "import sys, workers.attribution.heatmap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
