"""DeepDream (Mordvintsev, Olah, Tyka 2015): gradient ascent on the pixels, over octaves, stage after stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.dream_objective import Objective, StagePlan, stage_objective
from workers.features import Network
from workers.octaves import octave_sizes
from workers.params import Stage

Shift = tuple[int, int]


@dataclass(frozen=True)
class DreamResult:
    """What a dream made of a batch.

    `images`: B x 3 x H x W in [0, 1]. `objective_first` and `objective_last`: float64 of length B, the last stage's
    objective at full size and without jitter, of the image the dream started from and of the result.
    `iterations`: gradient steps taken on each image, over all stages and octaves.
    """

    images: Tensor
    objective_first: Tensor
    objective_last: Tensor
    iterations: int


def deepdream(
    network: Network,
    images: Tensor,
    stages: Sequence[StagePlan],
    seeds: Sequence[int],
    *,
    init: Literal["image", "grey", "noise"] = "image",
    on_step: Callable[[], None] = lambda: None,
) -> DreamResult:
    """Dream a batch: each stage works on the result of the last, and no image's result depends on its companions.

    `images`: B x 3 x H x W, RGB in [0, 1], on the network's device; also the shape and dtype of what is dreamed when
    `init` is grey (0.5 everywhere) or noise (uniform in [0.4, 0.6], from the image's seed). `seeds`: one integer for
    each image; an image's noise and jitter follow from it alone. `on_step` is called after every gradient step.

    Raises ModelError for a layer, channel or class that the network doesn't have.
    """
    start = _start(images, seeds, init)
    objectives = [stage_objective(network, plan, maximise_activation=init != "image") for plan in stages]
    first = _measure(objectives[-1], start)
    dreamed = start
    for number, (plan, objective) in enumerate(zip(stages, objectives, strict=True)):
        dreamed = _dream_stage(objective, dreamed, plan.stage, number, seeds, on_step)
    iterations = sum(plan.stage.octaves * plan.stage.iterations for plan in stages)
    return DreamResult(dreamed, first, _measure(objectives[-1], dreamed), iterations)


def ascend(objective: Objective, images: Tensor, step: float, shifts: Sequence[Shift]) -> Tensor:
    """One iteration: x <- clip(x + step / 255 * g / mean|g|, 0, 1), g and mean|g| being each image's own.

    The gradient g is taken of each image rolled by its shift (rows, columns) and rolled back. `images`: B x 3 x H x W;
    `step` in grey levels of 255. An image whose gradient is zero everywhere stays as it is.
    """
    pixels = _roll(images, shifts).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(pixels).sum(), pixels)
    gradient = _roll(gradient, [(-rows, -columns) for rows, columns in shifts])
    mean = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
    direction = gradient / mean.clamp_min(torch.finfo(mean.dtype).tiny)
    return (images + step / 255 * direction).clamp(0, 1)


def _dream_stage(
    objective: Objective,
    images: Tensor,
    stage: Stage,
    number: int,
    seeds: Sequence[int],
    on_step: Callable[[], None],
) -> Tensor:
    """Dream from the coarsest octave to the full size; each octave gets back the detail that shrinking took away."""
    dreamed = images
    detail = torch.zeros_like(images)
    height, width = images.shape[-2:]
    for octave, size in enumerate(octave_sizes(height, width, stage.octaves, stage.octave_scale)):
        base = _resize(images, size).clamp(0, 1)  # bicubic overshoots: unclipped, the clip would show up as detail
        dreamed = base + _resize(detail, size)
        generators = [_generator(seed, number, octave) for seed in seeds]
        for shifts in _jitter(generators, stage):
            dreamed = ascend(objective, dreamed, stage.step, shifts)
            on_step()
        detail = dreamed - base
    return dreamed


def _start(images: Tensor, seeds: Sequence[int], init: Literal["image", "grey", "noise"]) -> Tensor:
    if init == "image":
        return images
    if init == "grey":
        return torch.full_like(images, 0.5)
    noise = torch.stack([torch.rand(images.shape[1:], generator=_generator(seed, "noise")) for seed in seeds])
    return 0.4 + 0.2 * noise.to(images)  # faint: every octave adds it again, and it must not drown the dream


def _measure(objective: Objective, images: Tensor) -> Tensor:
    with torch.no_grad():
        return objective(images).double()


def _jitter(generators: Sequence[torch.Generator], stage: Stage) -> Iterator[list[Shift]]:
    """For each iteration, the shift of each image: rows and columns uniform in [-jitter, jitter]."""
    shape, reach = (stage.iterations, 2), stage.jitter
    drawn = [torch.randint(-reach, reach + 1, shape, generator=generator).tolist() for generator in generators]
    yield from ([(rows, columns) for rows, columns in shifts] for shifts in zip(*drawn, strict=True))


def _generator(*place: int | str) -> torch.Generator:
    """A generator on the CPU, so that the draws are the same whatever the device, seeded by all parts of `place`."""
    digest = hashlib.blake2b("/".join(map(str, place)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def _roll(images: Tensor, shifts: Sequence[Shift]) -> Tensor:
    return torch.stack([image.roll(shift, dims=(1, 2)) for image, shift in zip(images, shifts, strict=True)])


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)
