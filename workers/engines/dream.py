"""The engine of DeepDream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.assembly import Item, Result
from workers.batching import Frame
from workers.deepdream import StagePlan, deepdream
from workers.dream_objective import guide_features
from workers.engines.base import Engine, PictureResult, Read, Step, filled, shape_of, to_pictures
from workers.errors import ImageError
from workers.features import LOGITS, Network
from workers.octaves import smallest_octave
from workers.params import DeepDreamParams
from workers.setup import Picture, WorkerSetup
from workers.storage import read_bytes


class DreamEngine(Engine):
    """DeepDream."""

    def __init__(self, setup: WorkerSetup, network: Network, read: Read = read_bytes):
        super().__init__(setup, network, read)
        assert isinstance(setup.params, DeepDreamParams)
        self._params = setup.params
        network.prune(_dream_layers(setup.params))
        guides = setup.guides or [None] * len(setup.params.stages)
        self._stages = [self._plan(stage, guide) for stage, guide in zip(setup.params.stages, guides, strict=True)]

    def _plan(self, stage: Any, guide: Picture | None) -> StagePlan:
        if isinstance(stage.class_, int):
            return StagePlan(stage, class_index=stage.class_)
        features = guide_features(self._network, self._picture(guide)[0], stage.layers) if guide else None
        return StagePlan(stage, stage.layers, guide=features)

    def _smallest_input(self, frame: Frame) -> Frame:
        return smallest_octave(*frame, self._params.stages)

    def _compute(self, items: Sequence[Item], size: int, on_step: Step) -> Sequence[Result | ImageError]:
        items = filled(items, size)
        pixels = self._pixels(items)
        seeds = [item.seed for item in items]
        dream = deepdream(self._network, pixels, self._stages, seeds, init=self._params.init, on_step=on_step)
        first, last = dream.objective_first.tolist(), dream.objective_last.tolist()
        return [
            picture
            if isinstance(picture, ImageError)
            else PictureResult(
                picture,
                {"objective_first": first[i], "objective_last": last[i], "iterations": dream.iterations},
                shape_of(pixels),
            )
            for i, picture in enumerate(to_pictures(dream.images))
        ]


def _dream_layers(params: DeepDreamParams) -> list[str]:
    named = [layer.name for stage in params.stages for layer in stage.layers or ()]
    return [*named, LOGITS] if any(stage.class_ is not None for stage in params.stages) else named
