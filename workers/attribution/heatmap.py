"""A signed attribution map as a picture that a person can read, with its colour scale written below. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from workers.attribution.smoothing import gaussian_matrix

SMOOTHING = 0.06
"""Standard deviation of the smoothing, as a share of the shorter side. Raw integrated gradients are speckle of both
signs that cancels a hundredfold; what a region contributes on the whole shows only at this width."""

SCALE_PERCENTILE = 99
"""The strongest colour stands for this percentile of the smoothed |map|; what lies above it is clipped."""

PHOTOGRAPH_CONTRAST = 0.38
"""How much of the grey photograph's contrast is left under the colours."""

COLOURS = np.array(
    [(16, 62, 140), (58, 130, 200), (190, 220, 240), (255, 255, 255), (254, 213, 180), (230, 100, 50), (150, 20, 20)],
    dtype=np.float64,
)
"""From -1 to 1 in equal steps, RGB: blue, white, red, told apart with every common colour vision deficiency."""

Picture = NDArray[np.uint8]
Map = NDArray[np.floating]


def heatmap(attribution: Map, image: Picture, *, absolute: bool = False, title: str = "") -> tuple[Picture, float]:
    """The map as colours over the pale grey photograph, a legend below, and the scale s of the colours.

    `attribution` (H x W, signed) and `image` (H x W x 3, sRGB, uint8) share a frame. The map is smoothed first; red
    raises the objective, blue lowers it, and the strongest colours stand for -s and +s, in units of the objective per
    pixel. With `absolute` it is |map| that is smoothed, and white to red stand for 0 to s. The legend begins with
    `title`.
    Returns a picture of the same width (but wide enough for the legend) and a little taller, and s (0 if the map
    is zero everywhere). The raw map remains the result; this is its presentation.
    """
    smooth = _smooth(np.abs(attribution) if absolute else attribution)
    scale = float(np.percentile(np.abs(smooth), SCALE_PERCENTILE)) or float(np.abs(smooth).max())
    level = np.clip(smooth / scale, -1, 1) if scale else np.zeros_like(smooth)
    marks = ["0", f"|map| {scale:.2g}"] if absolute else [f"-{scale:.2g} against", "0", f"for +{scale:.2g}"]
    return _with_legend(_overlay(level, image), 0 if absolute else -1, marks, title), scale


def _overlay(level: Map, image: Picture) -> Picture:
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64)[..., None]
    pale = 255 - PHOTOGRAPH_CONTRAST * (255 - grey)
    return np.rint(_colour(level) * pale / 255).astype(np.uint8)


def _colour(level: Map) -> NDArray[np.float64]:
    """RGB in 0 to 255 for levels in [-1, 1], interpolated between `COLOURS`."""
    stops = np.linspace(-1, 1, len(COLOURS))
    return np.stack([np.interp(level, stops, channel) for channel in COLOURS.T], axis=-1)


def _smooth(values: Map) -> NDArray[np.float64]:
    sigma = SMOOTHING * min(values.shape)
    rows, columns = (gaussian_matrix(size, sigma) for size in values.shape)
    return rows @ values.astype(np.float64) @ columns.T


def _with_legend(picture: Picture, lowest: int, marks: Sequence[str], title: str) -> Picture:
    """The picture with a title, a bar of the colours from level `lowest` to 1, and marks spread under it, all below."""
    height, width = picture.shape[:2]
    text = max(10, width // 24)
    margin, bar, titled = text, text // 2, 3 * text // 2 if title else 0
    canvas = Image.new("RGB", (max(width, 20 * text), height + titled + 3 * text), "white")
    canvas.paste(Image.fromarray(picture), ((canvas.width - width) // 2, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(text)
    if title:
        fitting = _shortened(title, lambda words: draw.textlength(words, font) <= canvas.width - 2 * margin)
        draw.text((canvas.width / 2, height + text // 4), fitting, "black", font, anchor="ma")
    height += titled
    gradient = np.rint(_colour(np.linspace(lowest, 1, canvas.width - 2 * margin))).astype(np.uint8)
    canvas.paste(Image.fromarray(np.repeat(gradient[None], bar, axis=0)), (margin, height + bar))
    top = height + 2 * bar + 1
    anchors = ["la", *["ma"] * (len(marks) - 2), "ra"]
    for place, mark, anchor in zip(np.linspace(margin, canvas.width - margin, len(marks)), marks, anchors, strict=True):
        draw.text((float(place), top), mark, "black", font, anchor=anchor)
    return np.asarray(canvas)


def _shortened(words: str, fits: Callable[[str], bool]) -> str:
    """The words, less some of their middle so that they fit: what they end in says how sure the network is."""
    kept = len(words)
    while not fits(shown := words if kept == len(words) else f"{words[: kept - kept // 2]}…{words[-(kept // 2) :]}"):
        kept -= 1
    return shown
