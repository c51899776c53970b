"""What a worker is told once, when it starts. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from workers.batching import Frame
from workers.params import ImageParams, ModelParams, Section
from workers.records import Task


def set_threads(threads: int) -> None:
    """Give this process its threads. Imports torch."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray sets 1, whatever the share of the machine
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Picture:
    """An image that the job itself names (a style, a guide), with the content that the driver saw."""

    uri: str
    name: str
    sha256: str


@dataclass(frozen=True)
class BatchPlan:
    """How many images of a frame make a batch: fixed for a run, so that results don't depend on the company.

    `images` is an explicit size for every frame; else as many as `pixels` pays for, at most `most`.
    """

    images: int | None
    pixels: int
    most: int

    def size(self, frame: Frame) -> int:
        """Images in a batch of this frame."""
        if self.images is not None:
            return self.images
        fitting = self.pixels // (frame[0] * frame[1])
        return max(1, min(self.most, 1 << max(0, fitting.bit_length() - 1)))


@dataclass(frozen=True)
class WorkerSetup:
    """Everything a worker needs besides the weights' bytes.

    Layers, classes and pictures in `params` are resolved: nothing is null any more. `min_side` is the smallest side in
    pixels that the network takes at the layers used. `precision` is fp32 or bf16, `device` cpu or cuda. `styles` are
    the job's style images in order, `guides` those of a dream, by what its layers call them, `baselines`
    the images that each given baseline of an attribution names.
    """

    task: Task
    params: Section
    model: ModelParams
    min_side: int
    categories: Sequence[str] | None
    allow_code: bool
    images: ImageParams
    source_root: str
    source_columns: Sequence[pa.Field]
    output: str
    seed: int
    device: str
    precision: str
    threads: int
    batch: BatchPlan
    styles: Sequence[Picture] = ()
    guides: Mapping[str, Picture] = field(default_factory=dict)
    baselines: Sequence[Sequence[Picture]] = ()
