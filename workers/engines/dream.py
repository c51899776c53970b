"""The engine of DeepDream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from workers.assembly import Item, Lot
from workers.batching import Frame
from workers.deepdream import deepdream
from workers.dream_objective import StagePlan, guide_features
from workers.engines.base import Engine, PictureResult, Read, Step, Supply, filled, shape_of, to_pictures
from workers.errors import ImageError
from workers.features import LOGITS, Network
from workers.folding import working_form
from workers.octaves import smallest_octave
from workers.params import DeepDreamParams, DreamLayer, Stage
from workers.setup import WorkerSetup
from workers.storage import read_bytes


class DreamEngine(Engine):
    """DeepDream."""

    def __init__(self, setup: WorkerSetup, network: Network, read: Read = read_bytes):
        assert isinstance(setup.params, DeepDreamParams)
        layers, precision = _dream_layers(setup.params), setup.precision
        super().__init__(setup, working_form(network, layers, setup.params.pooling, precision), read)
        self._params = setup.params
        self._stages = [self._plan(stage) for stage in setup.params.stages]

    def _plan(self, stage: Stage) -> StagePlan:
        if sheet := self._params.channel_sheet:
            return StagePlan(stage, [DreamLayer(name=sheet.layer)])
        layers = stage.layers or []
        guides = {
            guide: guide_features(
                self._network,
                self._picture(self._setup.guides[guide])[0],
                [layer for layer in layers if layer.guide == guide],
            )
            for guide in dict.fromkeys(layer.guide for layer in layers if layer.guide)
        }
        index = stage.class_ if isinstance(stage.class_, int) else None
        return StagePlan(stage, layers, class_index=index, guides=guides)

    def _smallest_input(self, frame: Frame) -> Frame:
        return smallest_octave(*frame, self._params.stages)

    def _compute(self, items: Sequence[Item], size: int, on_step: Step, more: Supply) -> Iterator[Lot]:
        batch = filled(items, size)
        pixels = self._pixels(batch)
        seeds = [item.seed for item in batch]
        params = self._params
        dream = deepdream(
            self._network,
            pixels,
            self._stages_of(batch),
            seeds,
            init=params.init,
            colors=params.colors,
            on_step=on_step,
        )
        first, last = dream.objective_first.tolist(), dream.objective_last.tolist()
        lot, shape = [], shape_of(size, pixels[0])
        for i, (item, picture) in enumerate(zip(items, to_pictures(dream.images), strict=False)):
            columns = {
                "objective_first": first[i],
                "objective_last": last[i],
                "iterations": dream.iterations,
                "trace_iterations": dream.trace[0],
                "trace_objective": dream.trace[1][i].tolist(),
            }
            lot.append((item, picture if isinstance(picture, ImageError) else PictureResult(picture, columns, shape)))
        yield lot

    def _stages_of(self, items: Sequence[Item]) -> Sequence[StagePlan]:
        """The stages for these items; on a sheet of channels each has its own."""
        if not self._params.channel_sheet:
            return self._stages
        channels = torch.tensor([item.output.variant.value for item in items], device=self._setup.device)
        return [replace(plan, channels=channels) for plan in self._stages]


def _dream_layers(params: DeepDreamParams) -> list[str]:
    if params.channel_sheet:
        return [params.channel_sheet.layer]
    named = [layer.name for stage in params.stages for layer in stage.layers or ()]
    return [*named, LOGITS] if any(stage.class_ is not None for stage in params.stages) else named
