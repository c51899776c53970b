"""One step of a dream: the gradient of the objective, tile by tile, made a direction of a known length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.dream_objective import Objective
from workers.octaves import tile_edges
from workers.params import Stage
from workers.resize import resize

Shift = tuple[int, int]
"""Rows and columns."""

BANDS = 4
"""Of the Laplacian pyramid that a gradient is normalised by, the coarse rest included."""


def ascend(
    objective: Objective,
    images: Tensor,
    stage: Stage,
    shifts: Sequence[Shift],
    *,
    progress: float = 0.0,
    base: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One iteration: x <- clip(x + step / 255 * g / mean|g|, 0, 1), g and mean|g| being each image's own.

    The gradient g is taken of each image rolled by its shift and rolled back, and then blurred and normalised as
    `stage` says; an image whose gradient is zero everywhere stays as it is. `images`: B x 3 x H x W in [0, 1].
    `progress`, from 0 to below 1, is how much of the octave is done: with it the blur falls to nothing, and the step
    as the stage's schedule says. `tv_weight` smooths what is dreamt, that is `images` less `base` (left out: zero).

    Gives the new images, and the objective of the rolled ones before (B, float32 or wider).
    """
    gradient, values = gradient_of(objective, _roll(images, shifts), stage.tile)
    gradient = _roll(gradient, [(-rows, -columns) for rows, columns in shifts])
    direction = normalised(smoothed(gradient, stage.smoothing * (1 - progress)), stage.normalize)
    stepped = images + stage.step / 255 * step_factor(stage.schedule, progress) * direction
    if stage.tv_weight:
        dreamt = images if base is None else images - base
        stepped = stepped + stage.tv_weight * (_neighbours_mean(dreamt) - dreamt)
    return stepped.clamp(0, 1), values


def gradient_of(objective: Objective, images: Tensor, tile: int | None) -> tuple[Tensor, Tensor]:
    """The gradient of each image's objective in its pixels (B x 3 x H x W), one tile at a time; the objective (B)."""
    gradient, values = torch.empty_like(images), images.new_zeros(len(images))
    for share, rows, columns in _tiles(images, tile):
        pixels = images[..., rows, columns].clone().requires_grad_()
        value = objective(pixels)
        (part,) = torch.autograd.grad(value.sum(), pixels)
        gradient[..., rows, columns] = share * part
        values = values + share * value.detach()
    return gradient, values


def measure(objective: Objective, images: Tensor, tile: int | None) -> Tensor:
    """Each image's objective (B, float64): the mean over its tiles, by their areas."""
    with torch.no_grad():
        values = [share * objective(images[..., rows, columns]) for share, rows, columns in _tiles(images, tile)]
        return torch.stack(values).sum(0).double()


def step_factor(schedule: Literal["constant", "linear", "cosine"], progress: float) -> float:
    """What is left of the step when `progress` (0 to 1) of an octave is done: from 1 towards 0."""
    if schedule == "linear":
        return 1 - progress
    return (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1.0


def smoothed(gradient: Tensor, sigma: float) -> Tensor:
    """B x C x H x W under a Gaussian of standard deviation `sigma` pixels, cut at 3 sigma; edges are mirrored.

    Below a fifth of a pixel it is the gradient itself.
    """
    if sigma < 0.2:
        return gradient
    radius = min(math.ceil(3 * sigma), *(side - 1 for side in gradient.shape[-2:]))
    position = torch.arange(-radius, radius + 1, device=gradient.device, dtype=gradient.dtype)
    weights = torch.exp(-0.5 * (position / sigma) ** 2)
    weights = weights / weights.sum()
    channels = gradient.shape[1]
    padded = F.pad(gradient, (radius,) * 4, mode="reflect")
    down = F.conv2d(padded, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(down, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def normalised(gradient: Tensor, by: Literal["mean", "std", "laplacian"]) -> Tensor:
    """Each image's gradient over its own mean size, or standard deviation, or band by band.

    `laplacian`: the bands of a Laplacian pyramid (Burt and Adelson 1983), each over its own standard deviation, are
    put together again, which brings out the low frequencies (Mordvintsev's notebook); the whole is then over its mean
    size, so that a step means the same.
    """
    if by == "std":
        return gradient / _at_least_tiny(gradient.std((1, 2, 3), correction=0, keepdim=True))
    if by == "laplacian":
        gradient = _flat_spectrum(gradient)
    return gradient / _at_least_tiny(gradient.abs().mean((1, 2, 3), keepdim=True))


def _flat_spectrum(gradient: Tensor) -> Tensor:
    bands, rest = [], gradient / _at_least_tiny(gradient.abs().amax((1, 2, 3), keepdim=True))
    while len(bands) < BANDS - 1 and min(rest.shape[-2:]) >= 8:
        height, width = rest.shape[-2:]
        coarse = resize(rest, ((height + 1) // 2, (width + 1) // 2))
        bands.append(rest - resize(coarse, (height, width)))
        rest = coarse
    whole = _over_spread(rest)
    for band in reversed(bands):
        whole = resize(whole, (band.shape[-2], band.shape[-1])) + _over_spread(band)
    return whole


def _over_spread(band: Tensor) -> Tensor:
    return band / band.std((1, 2, 3), correction=0, keepdim=True).clamp_min(1e-6)


def _neighbours_mean(images: Tensor) -> Tensor:
    """The mean of each pixel's four neighbours, those beyond the edge being the pixel itself."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    vertical = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
    return (vertical + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]) / 4


def _tiles(images: Tensor, tile: int | None) -> Iterator[tuple[float, slice, slice]]:
    """The tiles that images are cut into: their share of the area, rows and columns."""
    height, width = images.shape[-2:]
    for top, bottom in pairwise(tile_edges(height, tile)):
        for left, right in pairwise(tile_edges(width, tile)):
            share = (bottom - top) * (right - left) / (height * width)
            yield share, slice(top, bottom), slice(left, right)


def _roll(images: Tensor, shifts: Sequence[Shift]) -> Tensor:
    return torch.stack([image.roll(shift, dims=(1, 2)) for image, shift in zip(images, shifts, strict=True)])


def _at_least_tiny(values: Tensor) -> Tensor:
    return values.clamp_min(torch.finfo(values.dtype).tiny)
