"""DeepDream (Mordvintsev, Olah, Tyka 2015): gradient ascent on the pixels, over octaves, stage after stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.colors import keep_chroma, match_colors
from workers.dream_objective import Objective, StagePlan, stage_objective
from workers.dream_step import Shift, ascend, measure
from workers.features import Network
from workers.octaves import octave_sizes
from workers.params import Stage
from workers.resize import resize

TRACE_POINTS = 40
"""Most points of an objective's trace."""


@dataclass(frozen=True)
class DreamResult:
    """What a dream made of a batch.

    `images`: B x 3 x H x W in [0, 1]. `objective_first` and `objective_last`: float64 of length B, the last stage's
    objective at full size and without jitter, of the image the dream started from and of the result, before colours
    are put back.
    `iterations`: gradient steps taken on each image, over all stages and octaves. `trace`: the iterations before which
    the objective was noted down, of that stage and octave, with jitter; and it (B x as many, float64, on the CPU).
    """

    images: Tensor
    objective_first: Tensor
    objective_last: Tensor
    iterations: int
    trace: tuple[list[int], Tensor]


def deepdream(
    network: Network,
    images: Tensor,
    stages: Sequence[StagePlan],
    seeds: Sequence[int],
    *,
    init: Literal["image", "grey", "noise"] = "image",
    colors: Literal["free", "luminance", "histogram"] = "free",
    on_step: Callable[[], None] = lambda: None,
) -> DreamResult:
    """Dream a batch: each stage works on the result of the last, and no image's result depends on its companions.

    `images`: B x 3 x H x W, RGB in [0, 1], on the network's device; also the shape and dtype of what is dreamed when
    `init` is grey (0.5 everywhere) or noise (uniform in [0.4, 0.6], from the image's seed). `seeds`: one integer for
    each image; an image's noise and jitter follow from it alone. `colors`: what of the images' colours the result gets
    back, the chroma, or the mean and covariance, or nothing. `on_step` is called after every gradient step.

    Raises ModelError for a layer, channel or class that the network doesn't have.
    """
    start = _start(images, seeds, init)
    objectives = [stage_objective(network, plan, maximise_activation=init != "image") for plan in stages]
    tile = stages[-1].stage.tile
    first = measure(objectives[-1], start, tile)
    dreamed, values = start, list[Tensor]()
    for number, (plan, objective) in enumerate(zip(stages, objectives, strict=True)):
        dreamed = _dream_stage(objective, dreamed, plan.stage, number, seeds, values.append, on_step)
    last = measure(objectives[-1], dreamed, tile)
    marks = list(range(0, len(values), -(-len(values) // TRACE_POINTS)))
    trace = torch.stack([values[mark] for mark in marks], 1).double().cpu()
    return DreamResult(_with_colors(dreamed, images, colors), first, last, len(values), (marks, trace))


def _with_colors(dreamed: Tensor, images: Tensor, colors: Literal["free", "luminance", "histogram"]) -> Tensor:
    if colors == "luminance":
        return keep_chroma(dreamed, images)
    return match_colors(dreamed, images) if colors == "histogram" else dreamed


def _dream_stage(
    objective: Objective,
    images: Tensor,
    stage: Stage,
    number: int,
    seeds: Sequence[int],
    note: Callable[[Tensor], None],
    on_step: Callable[[], None],
) -> Tensor:
    """Dream from the coarsest octave to the full size; each octave gets back the detail that shrinking took away."""
    dreamed = images
    detail = torch.zeros_like(images)
    height, width = images.shape[-2:]
    for octave, size in enumerate(octave_sizes(height, width, stage.octaves, stage.octave_scale)):
        base = resize(images, size).clamp(0, 1)  # bicubic overshoots: unclipped, the clip would show up as detail
        dreamed = base + resize(detail, size)
        generators = [_generator(seed, number, octave) for seed in seeds]
        for iteration, shifts in enumerate(_jitter(generators, stage)):
            progress = iteration / stage.iterations
            dreamed, value = ascend(objective, dreamed, stage, shifts, progress=progress, base=base)
            note(value)
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


def _jitter(generators: Sequence[torch.Generator], stage: Stage) -> Iterator[list[Shift]]:
    """For each iteration, the shift of each image: rows and columns uniform in [-jitter, jitter].

    Where there are tiles, by up to half a tile at least, so that their seams fall everywhere.
    """
    shape, reach = (stage.iterations, 2), max(stage.jitter, (stage.tile or 0) // 2)
    drawn = [torch.randint(-reach, reach + 1, shape, generator=generator).tolist() for generator in generators]
    yield from ([(rows, columns) for rows, columns in shifts] for shifts in zip(*drawn, strict=True))


def _generator(*place: int | str) -> torch.Generator:
    """A generator on the CPU, so that the draws are the same whatever the device, seeded by all parts of `place`."""
    digest = hashlib.blake2b("/".join(map(str, place)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
