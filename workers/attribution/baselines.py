"""Baselines: the image without information from which the path of integrated gradients starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from workers.attribution.smoothing import gaussian_matrix
from workers.params import Baseline, GaussianBaseline, GivenBaseline, UniformBaseline

BLUR_SIGMA = 0.1
"""Standard deviation of the blurred baseline, as a share of the image's shorter side."""


def image_baselines(
    wanted: Sequence[Baseline], image: Tensor, *, mean: Tensor, given: Sequence[Tensor], seed: int
) -> Tensor:
    """All baselines of one image: K x 3 x H x W in [0, 1], in the image's dtype, in the order asked for.

    `image` is 3 x H x W in [0, 1]; `given` has the images (k x 3 x H x W) of each given baseline in turn. Noise is
    drawn by `seed` on the CPU, so that it is the same on every device, and rounded to the image's dtype: `uniform` is
    noise in [0, 1], `gaussian` the image itself under noise, clipped (Sturmfels, Lundberg and Lee 2020). For the others
    see `make_baselines`.
    """
    return torch.cat(list(_each(wanted, image, mean, iter(given), torch.Generator().manual_seed(seed))))


def _each(
    wanted: Sequence[Baseline], image: Tensor, mean: Tensor, given: Iterator[Tensor], generator: torch.Generator
) -> Iterator[Tensor]:
    for baseline in wanted:
        match baseline:
            case GivenBaseline():
                yield next(given).to(image)
            case "uniform" | UniformBaseline():
                draws = 1 if baseline == "uniform" else baseline.uniform
                yield torch.rand((draws, *image.shape), generator=generator).to(image)
            case "gaussian" | GaussianBaseline():
                noise = GaussianBaseline(gaussian=1) if baseline == "gaussian" else baseline
                yield noisy(image, noise.gaussian, noise.sigma, generator).clamp(0, 1)
            case name:
                yield make_baselines(name, image[None], mean)


def noisy(image: Tensor, copies: int, sigma: float, generator: torch.Generator) -> Tensor:
    """The image (3 x H x W) under Gaussian noise of deviation `sigma`, drawn on the CPU: copies x 3 x H x W."""
    return image + sigma * torch.randn((copies, *image.shape), generator=generator).to(image)


def make_baselines(kind: Literal["black", "white", "mean", "blur"], images: Tensor, mean: Tensor) -> Tensor:
    """The baseline of each image, in pixel space: same shape (B x 3 x H x W), dtype and range [0, 1] as `images`.

    `black` and `white` are 0 and 1 everywhere. `mean` is the colour `mean` (3 values, RGB in [0, 1]) that the network's
    preprocessing subtracts, so it is zero after normalisation. `blur` is the image itself under a Gaussian so wide
    (`BLUR_SIGMA` of the shorter side) that no object is left, only the layout of colours. An image's baseline doesn't
    depend on its companions.
    """
    if kind == "black":
        return torch.zeros_like(images)
    if kind == "white":
        return torch.ones_like(images)
    if kind == "mean":
        return mean.to(images).view(1, 3, 1, 1).expand_as(images).clone()
    return torch.stack([_blurred(image) for image in images])  # one by one: products of a batch round differently


def _blurred(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    sigma = BLUR_SIGMA * min(height, width)
    rows, columns = (torch.from_numpy(gaussian_matrix(size, sigma)).to(image.device) for size in (height, width))
    return (rows @ image.double() @ columns.T).clamp(0, 1).to(image.dtype)
