"""A map brought back to the geometry of the image that it came from. No torch, no Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating]


def to_original(attribution: Map, row: Mapping[str, Any]) -> NDArray[np.float64]:
    """The map (H x W) in the stored raster of its source image, fp64, by the row's `transform` and source size.

    Each pixel's value is shared out over the pixels that it covers there, by area, so that the sum stays (to
    rounding); what the frame cut away gets 0. The raster is as files store it, before the EXIF orientation.
    """
    width, height = row["source_width"], row["source_height"]
    swapped = row["transform"][0] == 0
    return resample(attribution, row["transform"], (width, height) if swapped else (height, width))


def resample(attribution: Map, transform: Sequence[float], shape: tuple[int, int]) -> NDArray[np.float64]:
    """The map under an affine (a, b, c, d, e, f) of axes that are scaled, mirrored or swapped, on a raster of a shape.

    The affine takes pixel edges of the map to those of the raster: (x, y) to (ax + by + c, dx + ey + f).
    """
    a, b, c, d, e, f = transform
    values = attribution.astype(np.float64)
    if a == 0:  # the raster's x is the map's y
        values, a, e = values.T, b, d
    rows = _shares(values.shape[0], e, f, shape[0])
    columns = _shares(values.shape[1], a, c, shape[1])
    return _spread(_spread(values, rows, shape[0]).T, columns, shape[1]).T


Shares = list[tuple[int, NDArray[np.float64]]]
"""For each pixel of an axis the first pixel of the raster that it covers, and its share in that and the next ones."""


def _shares(size: int, scale: float, offset: float, target: int) -> Shares:
    edges = (scale * np.arange(size + 1) + offset).tolist()
    return [_share(min(pair), max(pair), target) for pair in pairwise(edges)]


def _share(start: float, end: float, target: int) -> tuple[int, NDArray[np.float64]]:
    start, end = max(0.0, start), min(float(target), end)  # rounding may leave the raster by a hair
    first = min(int(start), target - 1)
    last = max(first + 1, min(target, math.ceil(end)))
    edges = np.clip(np.arange(first, last + 1, dtype=np.float64), start, end)
    covered = np.diff(edges)
    return first, covered / covered.sum()


def _spread(values: NDArray[np.float64], shares: Shares, target: int) -> NDArray[np.float64]:
    """Each row of the values shared out over `target` rows."""
    spread = np.zeros((target, values.shape[1]))
    for row, (first, share) in zip(values, shares, strict=True):
        spread[first : first + len(share)] += share[:, None] * row
    return spread
