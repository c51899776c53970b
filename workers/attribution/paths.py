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
    ends, starts = path_ends(images, seeds, params, network.mean, given)
    each = ends.shape[1]
    repeated = [target for target in targets for _ in range(each)]
    found = integrated_gradients(
        network,
        ends.flatten(0, 1).contiguous(memory_format=torch.channels_last),
        repeated,
        starts.flatten(0, 1).contiguous(memory_format=torch.channels_last),
        params,
        batch=batch,
        on_step=on_step,
    )
    return [average(found[i : i + each]) for i in range(0, len(found), each)]


def path_ends(
    images: Tensor, seeds: Sequence[int], params: AttributionParams, mean: Tensor, given: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The images and baselines between which each image's paths run: twice N x paths x 3 x H x W."""
    ends, starts = [], []
    for image, seed in zip(images, seeds, strict=True):
        baselines = image_baselines(params.baselines, image, mean=mean, given=given, seed=seed)
        copies = noisy_copies(image, params.smooth, seed)
        ends.append(copies.repeat_interleave(len(baselines), 0))
        starts.append(baselines.repeat(len(copies), 1, 1, 1))
    return torch.stack(ends), torch.stack(starts)


def noisy_copies(image: Tensor, smooth: SmoothGrad | None, seed: int) -> Tensor:
    """The image (3 x H x W) alone, or its noisy copies (Smilkov et al. 2017): n x 3 x H x W."""
    if smooth is None:
        return image[None]
    generator = torch.Generator().manual_seed(seed ^ COPIES_STREAM)
    return noisy(image, smooth.copies, smooth.sigma, generator)
