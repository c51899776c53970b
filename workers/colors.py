"""Colours of one image put on another: its chroma, or the mean and covariance of its pixels."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in the luminance of ITU-R BT.601."""

_LEAST_VARIANCE = 1e-5
"""Added to variances of RGB in [0, 1], so that an image of one colour has an inverse: under a grey level squared."""


def keep_chroma(images: Tensor, originals: Tensor) -> Tensor:
    """The luminance of `images` with the chroma of `originals` (both B x 3 x H x W in [0, 1]).

    Colour preservation by luminance (Gatys et al. 2016, "Preserving color in neural artistic style transfer", 2.2), in
    YIQ: only luminance changes, so each of R, G and B changes by the same amount. What leaves [0, 1] is clipped.
    """
    weights = images.new_tensor(LUMA).view(1, 3, 1, 1)
    change = ((images - originals) * weights).sum(1, keepdim=True)
    return (originals + change).clamp(0, 1)


def match_colors(images: Tensor, originals: Tensor) -> Tensor:
    """`images` under the linear map of RGB that gives each the mean and covariance of its original's pixels.

    B x 3 x H x W and B x 3 x h x w in [0, 1]. Gatys et al. (2016, as above), eq. (7), with the symmetric square roots
    of the covariances ("image analogies"), which moves colours least. What leaves [0, 1] is clipped. Computed in fp64.
    """
    mean, covariance = _moments(images)
    wanted_mean, wanted_covariance = _moments(originals)
    transform = _power(wanted_covariance, 0.5) @ _power(covariance, -0.5)
    pixels = images.double().flatten(2) - mean
    matched = transform @ pixels + wanted_mean
    return matched.view(images.shape).clamp(0, 1).to(images.dtype)


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B x 3 x 1) and covariance (B x 3 x 3) of the pixels."""
    pixels = images.double().flatten(2)
    mean = pixels.mean(2, keepdim=True)
    centred = pixels - mean
    return mean, torch.stack([c @ c.mT for c in centred]) / pixels.shape[2]  # one by one: independent of the company


def _power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag_embed((values.clamp_min(0) + _LEAST_VARIANCE) ** exponent) @ vectors.mT
