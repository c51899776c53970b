"""Baselines: the image without information from which the path of integrated gradients starts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from workers.attribution.smoothing import gaussian_matrix

BLUR_SIGMA = 0.1
"""Standard deviation of the blurred baseline, as a share of the image's shorter side."""


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
