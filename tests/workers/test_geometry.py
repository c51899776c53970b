from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from workers.errors import ImageError
from workers.geometry import Geometry, oriented, plan_frame
from workers.params import ImageParams

SIDES = st.integers(1, 3000)
ORIENTATIONS = st.integers(1, 8)


def images(**options: Any) -> ImageParams:
    return ImageParams.model_validate(options)


def mapped(geometry: Geometry, orientation: int, x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = geometry.affine(orientation)
    return a * x + b * y + c, d * x + e * y + f


@pytest.mark.parametrize(
    ("size", "params", "resized", "crop"),
    [
        ((1000, 500), {"short_side": 256}, (512, 256), (0, 0, 512, 256)),
        ((500, 1000), {"short_side": 256}, (256, 512), (0, 0, 256, 512)),
        ((451, 300), {"short_side": 256}, (385, 256), (0, 0, 384, 256)),
        ((451, 300), {"short_side": 250, "snap": 32}, (376, 250), (12, 13, 352, 224)),
        ((451, 300), {"short_side": 250, "snap": 1}, (376, 250), (0, 0, 376, 250)),
        ((100, 80), {"short_side": 256}, (100, 80), (2, 8, 96, 64)),
        ((100, 80), {"short_side": 256, "enlarge": True}, (320, 256), (0, 0, 320, 256)),
        ((1000, 500), {"frame": (224, 224)}, (448, 224), (112, 0, 224, 224)),
        ((500, 1000), {"frame": (200, 400)}, (400, 800), (0, 300, 400, 200)),
        ((1000, 500), {"short_side": 256, "frame": (224, 224)}, (512, 256), (144, 16, 224, 224)),
        ((224, 224), {"frame": (224, 224)}, (224, 224), (0, 0, 224, 224)),
        ((10, 1000), {"frame": (1001, 16), "enlarge": True}, (16, 1600), (0, 299, 16, 1001)),
    ],
)
def test_frames_follow_the_rules(size, params, resized, crop):
    geometry = plan_frame(size[0], size[1], images(**params))
    assert (geometry.shown, geometry.resized, geometry.crop) == (size, resized, crop)
    assert geometry.frame == (crop[3], crop[2])


@pytest.mark.parametrize(
    ("size", "params", "words"),
    [
        ((31, 400), {"short_side": 256}, ["31 x 400", "32 x 32", "images.snap", "images.enlarge: true"]),
        ((400, 300), {"short_side": 16}, ["21 x 16 when resized", "images.snap", "larger images.short_side"]),
        ((200, 400), {"frame": (224, 224)}, ["200 x 400", "224 x 224", "images.enlarge: true"]),
        ((10, 1000), {"frame": (1001, 16)}, ["10 x 1000", "16 x 1001", "images.enlarge: true"]),
        ((500, 500), {"short_side": 256, "frame": (200, 300)}, ["300 x 200", "larger images.short_side"]),
        ((40, 40), {"short_side": 64, "frame": (64, 80), "enlarge": True}, ["80 x 64", "larger images.short_side"]),
    ],
)
def test_too_small_says_the_sizes_and_the_mend(size, params, words):
    with pytest.raises(ImageError) as caught:
        plan_frame(size[0], size[1], images(**params))
    assert caught.value.code == "too_small"
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_enlarging_a_ribbon_is_refused_before_it_fills_the_memory():
    with pytest.raises(ImageError) as caught:
        plan_frame(1, 60_000, images(short_side=256, enlarge=True))
    assert caught.value.code == "too_large"


@given(
    SIDES,
    SIDES,
    st.integers(16, 600),
    st.integers(1, 64),
    st.booleans(),
    st.none() | st.tuples(*[st.integers(16, 99)] * 2),
)
def test_frames_are_centred_kept_in_proportion_and_never_enlarged_unasked(width, height, short, snap, enlarge, frame):
    params = images(short_side=short, snap=snap, enlarge=enlarge, frame=frame)
    try:
        geometry = plan_frame(width, height, params)
    except ImageError as error:
        assert error.code in ("too_small", "too_large")
        return
    (resized_width, resized_height), (left, top, kept_width, kept_height) = geometry.resized, geometry.crop
    assert enlarge or (resized_width <= width and resized_height <= height)
    assert min(geometry.resized) == (short if enlarge else min(short, width, height))
    assert abs(resized_width * height - resized_height * width) <= max(width, height) / 2
    assert abs(2 * left + kept_width - resized_width) <= 1 and abs(2 * top + kept_height - resized_height) <= 1
    if frame is None:
        assert kept_width % snap == kept_height % snap == 0
        assert resized_width - kept_width < snap and resized_height - kept_height < snap
    else:
        assert geometry.frame == frame


@given(SIDES, SIDES, st.tuples(st.integers(16, 300), st.integers(16, 300)))
def test_a_frame_alone_is_just_covered(width, height, frame):
    geometry = plan_frame(width, height, images(frame=frame, enlarge=True, max_pixels=10**9))
    slack = (geometry.resized[0] - frame[1], geometry.resized[1] - frame[0])
    assert min(slack) == 0 and max(slack) >= 0


@given(st.integers(16, 40), st.integers(16, 40), ORIENTATIONS)
def test_the_affine_agrees_with_pillows_turning(width, height, orientation):
    stored = np.arange(width * height, dtype=np.uint32).reshape(height, width)
    image = Image.fromarray(stored.astype(np.int32))
    image.getexif()[0x0112] = orientation
    shown = np.asarray(ImageOps.exif_transpose(image))
    geometry = plan_frame(shown.shape[1], shown.shape[0], images(short_side=16, snap=16, frame=(16, 16)))
    unscaled = Geometry(geometry.shown, geometry.shown, (1, 2, 13, 12))
    for y in range(12):
        for x in range(13):
            column, row = mapped(unscaled, orientation, x + 0.5, y + 0.5)
            assert stored[int(row), int(column)] == shown[y + 2, x + 1]


@given(st.integers(64, 3000), st.integers(64, 3000), ORIENTATIONS, st.booleans())
def test_the_corners_lie_in_the_source_and_opposite_each_other(width, height, orientation, square):
    params = images(frame=(48, 64)) if square else images(short_side=64)
    geometry = plan_frame(width, height, params)
    out_height, out_width = geometry.frame
    stored_width, stored_height = oriented((width, height), orientation)
    x0, y0 = mapped(geometry, orientation, 0, 0)
    x1, y1 = mapped(geometry, orientation, out_width, out_height)
    left, top, right, bottom = geometry.source_box(orientation)
    assert (left, top, right, bottom) == (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    assert -1e-9 <= left < right <= stored_width + 1e-9 and -1e-9 <= top < bottom <= stored_height + 1e-9
    centre = mapped(geometry, orientation, out_width / 2, out_height / 2)
    assert abs(centre[0] - stored_width / 2) <= stored_width / min(geometry.resized)
    assert abs(centre[1] - stored_height / 2) <= stored_height / min(geometry.resized)
