"""Neural style (Gatys, Ecker and Bethge, CVPR 2016) for a batch of images, each with a style of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from workers.colors import keep_chroma
from workers.features import Network
from workers.lbfgs import Minimum, Objective, minimise_adam, minimise_lbfgs
from workers.octaves import style_sizes
from workers.params import StyleParams
from workers.resize import resize
from workers.style_losses import StyleLosses, StyleTarget, style_target


@dataclass(frozen=True)
class StyleResult:
    """Stylised images, and what is left of their losses.

    `images` are B x 3 x H x W in [0, 1], in the dtype and on the device of the contents. `content_loss`, `style_loss`
    and `total_loss` (B, fp64, on the CPU) are those of these very images, before `colors: luminance` puts the chroma
    back, the first two without their weights; `iterations` (B) are the optimiser's steps at all scales, until each
    image was done.
    """

    images: Tensor
    content_loss: Tensor
    style_loss: Tensor
    total_loss: Tensor
    iterations: list[int]


def style_targets(network: Network, image: Tensor, params: StyleParams) -> list[StyleTarget]:
    """The targets of one style image (1 x 3 x H x W in [0, 1], of any size) for each scale, the coarsest first.

    Raises ModelError for a layer the network doesn't have.
    """
    sizes = style_sizes(image.shape[2], image.shape[3], params.scales)
    return [style_target(network, resize(image, size).clamp(0, 1), params.style_layers or []) for size in sizes]


def stylise(
    network: Network,
    contents: Tensor,
    targets: Sequence[Sequence[StyleTarget]],
    params: StyleParams,
    seeds: Sequence[int],
    *,
    on_step: Callable[[], None] = lambda: None,
) -> StyleResult:
    """Paint each of `contents` (B x 3 x H x W in [0, 1]) in the style of its own targets, one for each scale.

    Minimises the total of `StyleLosses` over pixels in [0, 1], for each image alone, from the start that `params` ask
    for; each scale begins with the enlarged result of the coarser one. `seeds` (one an image) are used by `init: noise`
    only. `on_step` is called before each step of the optimiser.

    `params` must name its content and style layers. Raises ModelError for a layer the network doesn't have.
    """
    sizes = style_sizes(contents.shape[2], contents.shape[3], params.scales)
    images = _start(contents, params, seeds)
    taken: list[Tensor] = []
    losses = None
    for scale, size in enumerate(sizes):
        frames = resize(contents, size).clamp(0, 1)
        losses = StyleLosses.of(network, frames, [target[scale] for target in targets], params)
        start = _flatten(resize(images, size).clamp(0, 1))
        minimum = _minimise(partial(_evaluate, losses, frames.shape), start, params, on_step)
        images = _unflatten(minimum.point, frames.shape)
        taken.append(minimum.iterations)
    assert losses is not None, "there is at least one scale"
    with torch.no_grad():
        content, style, total = (loss.double().cpu() for loss in losses(images))
    if params.colors == "luminance":
        images = keep_chroma(images, contents)
    return StyleResult(images, content, style, total, torch.stack(taken).sum(0).tolist())


def _evaluate(losses: StyleLosses, shape: torch.Size, flat: Tensor) -> tuple[Tensor, Tensor]:
    flat = flat.detach().requires_grad_()
    *_, total = losses(_unflatten(flat, shape))
    (gradient,) = torch.autograd.grad(total.sum(), flat)
    return total.detach(), gradient


def _minimise(objective: Objective, start: Tensor, params: StyleParams, on_step: Callable[[], None]) -> Minimum:
    if params.optimizer == "adam":
        minimise = partial(minimise_adam, learning_rate=params.learning_rate)
    else:
        minimise = partial(minimise_lbfgs, history=params.history)
    return minimise(
        objective,
        start,
        iterations=params.iterations,
        plateau=params.plateau,
        lower=0.0,
        upper=1.0,
        on_step=on_step,
    )


def _start(contents: Tensor, params: StyleParams, seeds: Sequence[int]) -> Tensor:
    if params.init == "noise":
        noise = [torch.rand(contents.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(noise).to(contents)
    return contents if params.init == "content" else torch.full_like(contents, 0.5)


def _flatten(images: Tensor) -> Tensor:
    """Rows in channels_last order, so that `_unflatten` is a view in the layout the network likes best."""
    return images.permute(0, 2, 3, 1).flatten(1)


def _unflatten(rows: Tensor, shape: torch.Size) -> Tensor:
    batch, channels, height, width = shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
