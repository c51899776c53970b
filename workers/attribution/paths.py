"""The paths of a batch of images: each image's baselines and noisy copies, integrated in one queue, then averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.attribution.average import Explanation, average
from workers.attribution.baselines import image_baselines, noisy
from workers.attribution.integrate import integrated_gradients
from workers.attribution.objective import Target
from workers.features import Network
from workers.params import AttributionParams, SmoothGrad

COPIES_STREAM = 1
"""Noise on the image is drawn by another seed than that of the baselines."""


def explain(
    network: Network,
    images: Tensor,
    targets: Sequence[Target],
    seeds: Sequence[int],
    params: AttributionParams,
    *,
    given: Sequence[Tensor] = (),
    batch: int,
    on_step: Callable[[], None] = lambda: None,
) -> list[Explanation]:
    """Integrated gradients of each image, averaged over its baselines and noisy copies, as `params` ask for.

    `images` are N x 3 x H x W in [0, 1]; `given` has the images of each given baseline (k x 3 x H x W). What is drawn
    for an image follows from its own seed. See `integrated_gradients` for the rest.
    """
    starts, ends = [], []
    for image, seed in zip(images, seeds, strict=True):
        baselines = image_baselines(params.baselines, image, mean=network.mean, given=given, seed=seed)
        copies = noisy_copies(image, params.smooth, seed)
        starts.append(baselines.repeat(len(copies), 1, 1, 1))
        ends.append(copies.repeat_interleave(len(baselines), 0))
    each = len(starts[0])
    repeated = [target for target in targets for _ in range(each)]
    layout = torch.channels_last  # the network is fastest in it
    found = integrated_gradients(
        network,
        torch.cat(ends).contiguous(memory_format=layout),
        repeated,
        torch.cat(starts).contiguous(memory_format=layout),
        params,
        batch=batch,
        on_step=on_step,
    )
    return [average(found[i : i + each]) for i in range(0, len(found), each)]


def noisy_copies(image: Tensor, smooth: SmoothGrad | None, seed: int) -> Tensor:
    """The image (3 x H x W) alone, or its noisy copies (Smilkov et al. 2017): n x 3 x H x W."""
    if smooth is None:
        return image[None]
    generator = torch.Generator().manual_seed(seed ^ COPIES_STREAM)
    return noisy(image, smooth.copies, smooth.sigma, generator)
