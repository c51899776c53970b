"""Batches of decoded images through the network: one engine for each of the three tasks."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.assembly import Item, Result
from workers.attribution.baselines import make_baselines
from workers.attribution.heatmap import heatmap
from workers.attribution.integrate import Attribution, integrated_gradients
from workers.attribution.predict import predict
from workers.batching import Frame
from workers.classes import class_index
from workers.codec import Pixels, decode, encode_npy, encode_png, to_uint8
from workers.colors import match_colors
from workers.deepdream import deepdream
from workers.dream_objective import StagePlan, guide_features
from workers.errors import DeviceError, ImageError, ModelError, first_line
from workers.features import LOGITS, Network
from workers.geometry import picture_params
from workers.models import build_network
from workers.octaves import smallest_octave, style_sizes
from workers.params import AttributionParams, DeepDreamParams, DreamLayer, Stage, StyleParams
from workers.setup import Picture, WorkerSetup
from workers.storage import read_bytes
from workers.style import style_targets, stylise
from workers.style_losses import StyleTarget, blended

STYLE_CACHE_BYTES = 2**29
"""Of targets that a worker keeps, those used last: 200 styles of VGG19 at one scale."""

Step = Callable[[], None]


def build_engine(setup: WorkerSetup, weights: NDArray[np.uint8]) -> Engine:
    """The engine of a setup, with the network built from the weights' bytes. Raises ModelError."""
    network = build_network(
        setup.model,
        weights,
        device=setup.device,
        dtype=torch.bfloat16 if setup.precision == "bf16" else torch.float32,
        categories=setup.categories,
        allow_code=setup.allow_code,
    )
    return _ENGINES[setup.task](setup, network)


@dataclass(frozen=True)
class PictureResult:
    """A picture, H x W x 3 uint8, and its columns."""

    pixels: Pixels
    columns: dict[str, Any]
    batch_shape: str

    def encode(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """As PNG."""
        return {"png": encode_png(self.pixels)}, self.columns


@dataclass(frozen=True)
class MapResult:
    """A signed attribution map, H x W float32, of a picture."""

    map: NDArray[np.float32]
    pixels: Pixels
    columns: dict[str, Any]
    batch_shape: str

    def encode(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """The map as .npy, and as a heatmap over the picture; the heatmap's scale is a column."""
        overlay, scale = heatmap(self.map, self.pixels)
        return {"npy": encode_npy(self.map), "png": encode_png(overlay)}, {**self.columns, "heatmap_scale": scale}


class Engine(ABC):
    """Runs batches of one fixed shape a frame, so that no result depends on its company."""

    def __init__(self, setup: WorkerSetup, network: Network):
        self._setup = setup
        self._network = network

    def batch_size(self, frame: Frame) -> int:
        """Items in a batch of this frame."""
        return self._setup.batch.size(frame)

    def run(self, items: Sequence[Item], on_step: Step) -> Sequence[Result | ImageError]:
        """A result, or the reason why there is none, for each item; all are of one frame, at most a batch of them."""
        frame = items[0].decoded.frame
        smallest = self._smallest_input(frame)
        if min(smallest) < self._setup.min_side:
            return [self._too_small(frame, smallest)] * len(items)
        return self._run(items, self.batch_size(frame), on_step)

    def _run(self, items: Sequence[Item], size: int, on_step: Step) -> Sequence[Result | ImageError]:
        try:
            return self._compute(items, size, on_step)[: len(items)]
        except torch.AcceleratorError as error:
            raise DeviceError(first_line(error)) from error
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if size == 1:
                raise MemoryError(first_line(error)) from None
        torch.cuda.empty_cache()
        half = size // 2
        return [r for i in range(0, len(items), half) for r in self._run(items[i : i + half], half, on_step)]

    @abstractmethod
    def _compute(self, items: Sequence[Item], size: int, on_step: Step) -> Sequence[Result | ImageError]:
        """Results for the items, and maybe for copies behind them; the network must see batches of `size`."""

    def _smallest_input(self, frame: Frame) -> Frame:
        return frame

    def _too_small(self, frame: Frame, smallest: Frame) -> ImageError:
        least = self._setup.min_side
        return ImageError(
            "too_small",
            f"The network needs {least} x {least} pixels at these layers, and this image of {frame[1]} x {frame[0]} "
            f"gives it {smallest[1]} x {smallest[0]}: choose earlier layers, fewer octaves or scales, "
            "larger tiles or a larger short_side",
        )

    def _pixels(self, items: Sequence[Item]) -> Tensor:
        stacked = torch.from_numpy(np.stack([item.decoded.pixels for item in items])).to(self._setup.device)
        return stacked.permute(0, 3, 1, 2).float().div(255)  # a view of H x W x 3: channels_last as it is

    def _picture(self, picture: Picture, scale: float = 1.0) -> Tensor:
        """An image that the job names: 1 x 3 x H x W, at the short side of the job's images times `scale`."""
        data = read_bytes(picture.uri)
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise ModelError(f"{picture.uri} changed since the run began; put the former file back.")
        pixels = decode(data, picture_params(self._setup.images, scale)).pixels
        return torch.from_numpy(pixels).to(self._setup.device).permute(2, 0, 1)[None].float().div(255)


def _is_out_of_memory(error: Exception) -> bool:
    """On a CPU torch says it with a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def shape_of(images: Tensor) -> str:
    """A batch's shape for the rows: B x 3 x H x W as "8x3x256x256"."""
    return "x".join(map(str, images.shape))


def _filled(items: Sequence[Item], size: int) -> Sequence[Item]:
    """A full batch: copies behind the items."""
    return [*items, *[items[-1]] * (size - len(items))]


def _to_pictures(images: Tensor) -> list[Pixels | ImageError]:
    pictures: list[Pixels | ImageError] = []
    for image in images.permute(0, 2, 3, 1).float().cpu().numpy():
        try:
            pictures.append(to_uint8(image))
        except ImageError as error:
            pictures.append(error)
    return pictures


class DreamEngine(Engine):
    """DeepDream."""

    def __init__(self, setup: WorkerSetup, network: Network):
        super().__init__(setup, network)
        assert isinstance(setup.params, DeepDreamParams)
        self._params = setup.params
        network.prune(_dream_layers(setup.params))
        if setup.params.pooling == "average":
            network.pool_by_average()
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

    def _compute(self, items: Sequence[Item], size: int, on_step: Step) -> Sequence[Result | ImageError]:
        items = _filled(items, size)
        pixels = self._pixels(items)
        seeds = [item.seed for item in items]
        params = self._params
        dream = deepdream(
            self._network,
            pixels,
            self._stages_of(items),
            seeds,
            init=params.init,
            colors=params.colors,
            on_step=on_step,
        )
        first, last = dream.objective_first.tolist(), dream.objective_last.tolist()
        return [
            picture
            if isinstance(picture, ImageError)
            else PictureResult(
                picture,
                {"objective_first": first[i], "objective_last": last[i], "iterations": dream.iterations},
                shape_of(pixels),
            )
            for i, picture in enumerate(_to_pictures(dream.images))
        ]

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


class StyleEngine(Engine):
    """Neural style. The targets of a style are computed once and kept, the most recently used ones."""

    def __init__(self, setup: WorkerSetup, network: Network):
        super().__init__(setup, network)
        assert isinstance(setup.params, StyleParams)
        assert setup.params.content_layers and setup.params.style_layers
        self._params = setup.params
        network.prune([layer.name for layer in [*setup.params.content_layers, *setup.params.style_layers]])
        if setup.params.pooling == "average":
            network.pool_by_average()
        kept = max(1, STYLE_CACHE_BYTES // self._target_bytes())
        self._targets = lru_cache(kept)(self._style_targets)
        self._style_pixels = lru_cache(16)(self._read_style)

    def _target_bytes(self) -> int:
        """Of a style's targets, all channels of a layer counted."""
        named = {layer.name for layer in self._params.style_layers or []}
        channels = [layer.channels or 1 for layer in self._network.layers() if {layer.name, layer.path} & named]
        return 4 * self._params.scales * sum(n * n + n for n in channels)

    def _smallest_input(self, frame: Frame) -> Frame:
        return style_sizes(*frame, self._params.scales)[0]

    def _read_style(self, style: int) -> Tensor:
        return self._picture(self._setup.styles[style], self._params.style_scale)

    def _style_targets(self, style: int) -> Sequence[StyleTarget]:
        return style_targets(self._network, self._read_style(style), self._params)

    def _targets_of(self, style: int, content: Tensor) -> Sequence[StyleTarget]:
        """The targets, one a scale, for a content image (3 x H x W), the styles being blended if the job says so."""
        blend = self._params.blend
        styles = range(len(blend)) if blend else [style]
        if self._params.colors == "histogram":
            recoloured = [match_colors(self._style_pixels(i), content[None]) for i in styles]
            targets = [style_targets(self._network, pixels, self._params) for pixels in recoloured]
        else:
            targets = [self._targets(i) for i in styles]
        return [blended(scale, blend) for scale in zip(*targets, strict=True)] if blend else targets[0]

    def run(self, items: Sequence[Item], on_step: Step) -> Sequence[Result | ImageError]:
        """As Engine.run; an item whose style is none of the job's fails."""
        known = [item for item in items if isinstance(item.output.variant.value, int)]
        results = iter(super().run(known, on_step) if known else ())
        return [next(results) if isinstance(item.output.variant.value, int) else _unknown_style(item) for item in items]

    def _compute(self, items: Sequence[Item], size: int, on_step: Step) -> Sequence[Result | ImageError]:
        items = _filled(items, size)
        pixels = self._pixels(items)
        styles = [int(item.output.variant.value) for item in items]  # pyright: ignore[reportArgumentType]
        targets = [self._targets_of(style, content) for style, content in zip(styles, pixels, strict=True)]
        seeds = [item.seed for item in items]
        styled = stylise(self._network, pixels, targets, self._params, seeds, on_step=on_step)
        losses = [getattr(styled, name).tolist() for name in ("content_loss", "style_loss", "total_loss")]
        results: list[Result | ImageError] = []
        for i, picture in enumerate(_to_pictures(styled.images)):
            columns = {
                **self._style_columns(styles[i]),
                "content_loss": losses[0][i],
                "style_loss": losses[1][i],
                "total_loss": losses[2][i],
                "iterations": styled.iterations[i],
            }
            if isinstance(picture, ImageError):
                results.append(picture)
            else:
                finite = isfinite(losses[2][i])
                results.append(PictureResult(picture, columns, shape_of(pixels)) if finite else _overflowed())
        return results

    def _style_columns(self, style: int) -> dict[str, str]:
        """Which style it was; of a blend all, in the order of the weights."""
        used = self._setup.styles if self._params.blend else [self._setup.styles[style]]
        return {"style_uri": " + ".join(s.uri for s in used), "style_sha256": " + ".join(s.sha256 for s in used)}


def _unknown_style(item: Item) -> ImageError:
    wanted = item.output.variant.value
    return ImageError("unknown_style", f"The style column says {wanted!r}, which is none of the job's styles")


def _overflowed() -> ImageError:
    return ImageError("not_finite", "The loss is NaN or infinite for this image: choose smaller weights, or fp32")


class AttributionEngine(Engine):
    """Integrated gradients."""

    def __init__(self, setup: WorkerSetup, network: Network):
        super().__init__(setup, network)
        assert isinstance(setup.params, AttributionParams)
        self._params = setup.params

    def _compute(self, items: Sequence[Item], size: int, on_step: Step) -> Sequence[Result | ImageError]:
        pixels = self._pixels(items)
        logits = predict(self._network, pixels, batch=size, on_step=on_step).double()
        targets = [self._choose(item, scores) for item, scores in zip(items, logits, strict=True)]
        chosen = [0 if isinstance(target, ImageError) else target for target in targets]
        baselines = make_baselines(self._params.baseline, pixels, self._network.mean)
        found = integrated_gradients(
            self._network, pixels, chosen, baselines, self._params, batch=size, on_step=on_step
        )
        shape = "x".join(map(str, (size, *pixels.shape[1:])))
        return [
            target if isinstance(target, ImageError) else self._result(item, target, scores, attribution, shape)
            for item, target, scores, attribution in zip(items, targets, logits, found, strict=True)
        ]

    def _choose(self, item: Item, logits: Tensor) -> int | ImageError:
        wanted = item.output.variant.value
        if isinstance(wanted, str) and wanted.startswith("top:"):
            rank = int(wanted.removeprefix("top:"))
            return int(logits.argsort(descending=True)[rank])
        if wanted == "predicted":
            return int(logits.argmax())
        if wanted == "label":
            wanted = item.output.image.label
            if wanted is None:
                return ImageError("no_label", "The image has no label to explain: set source.labels or another target")
        assert wanted is not None, "every variant of an attribution has a target"
        try:
            return class_index(wanted, len(logits), self._network.categories)
        except ModelError as error:
            return ImageError("unknown_class", f"{error}")

    def _result(
        self, item: Item, target: int, logits: Tensor, attribution: Attribution, shape: str
    ) -> Result | ImageError:
        if attribution.stop_reason == "non_finite":
            return ImageError(
                "not_finite", "The network gave NaN or infinity on the way from the baseline to this image"
            )
        names = self._network.categories
        columns = {
            "target": target,
            "target_name": names[target] if names else None,
            "target_source": str(item.output.variant.value),
            "predicted": int(logits.argmax()),
            "probability": float(logits.softmax(0)[target]),
            "objective_value": attribution.objective_value,
            "baseline_value": attribution.baseline_value,
            "attribution_sum": attribution.attribution_sum,
            "attribution_l1": attribution.attribution_l1,
            "completeness_delta": attribution.completeness_delta,
            "map_error": None if np.isnan(attribution.map_error) else attribution.map_error,
            "evaluations": attribution.evaluations,
            "converged": attribution.converged,
            "stop_reason": attribution.stop_reason,
        }
        return MapResult(attribution.map.float().cpu().numpy(), item.decoded.pixels, columns, shape)


_ENGINES: dict[str, type[Engine]] = {
    "deepdream": DreamEngine,
    "style": StyleEngine,
    "attribution": AttributionEngine,
}
