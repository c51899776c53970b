"""Maps in the geometry of the image that they came from: where each value lands, and that none is lost."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.original import resample, to_original
from workers.codec import decode
from workers.geometry import plan_frame
from workers.params import ImageParams

RANDOM = np.random.default_rng(0)


def test_a_map_doubled_in_size_has_a_quarter_of_each_value():
    found = resample(np.array([[4.0, 8.0]]), (2, 0, 0, 0, 2, 0), (2, 4))
    assert found.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


def test_a_pixel_between_two_is_shared_by_area():
    found = resample(np.array([[1.0, 10.0]]), (1.5, 0, 0.25, 0, 1, 0), (1, 4))
    assert found[0].tolist() == pytest.approx([0.5, 0.5 + 10 / 6, 10 * 2 / 3, 10 / 6])


def test_a_map_shrunk_sums_its_pixels():
    assert resample(np.ones((4, 4)), (0.5, 0, 0, 0, 0.5, 0), (2, 2)).tolist() == [[4, 4], [4, 4]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(301, 217), (97, 640), (33, 32)])
def test_no_value_is_lost_whatever_the_orientation_and_size(orientation, size):
    geometry = plan_frame(size[0], size[1], ImageParams(frame=(32, 32), short_side=32))
    stored = size if orientation < 5 else size[::-1]
    values = RANDOM.normal(size=geometry.frame).astype(np.float32)
    found = resample(values, geometry.affine(orientation), stored[::-1])
    assert found.shape == stored[::-1]
    assert abs(found.sum() - values.sum(dtype=np.float64)) <= 1e-12 * np.abs(values).sum()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_bright_spot_of_the_picture_is_found_again_in_the_stored_raster(orientation, tmp_path: Path):
    stored = np.zeros((90, 120, 3), np.uint8)
    stored[18:30, 70:82] = 255
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(data, "PNG", exif=exif)
    decoded = decode(data.getvalue(), ImageParams(short_side=32, frame=None, snap=16))
    row = {
        "source_width": decoded.source_width,
        "source_height": decoded.source_height,
        "transform": list(decoded.transform),
    }
    found = to_original(decoded.pixels.mean(2), row)
    assert found.shape == stored.shape[:2]
    y, x = (int((found.sum(1 - axis) * np.arange(found.shape[axis])).sum() / found.sum()) for axis in (0, 1))
    assert (y, x) == (pytest.approx(24, abs=2), pytest.approx(76, abs=2))
