"""Batches of decoded images through the network: one engine for each of the three tasks."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
from workers.deepdream import StagePlan, deepdream
from workers.dream_objective import guide_features
from workers.errors import DeviceError, ImageError, ModelError, first_line
from workers.features import LOGITS, Network
from workers.geometry import picture_params
from workers.models import build_network
from workers.octaves import smallest_octave
from workers.params import AttributionParams, DeepDreamParams, StyleParams
from workers.setup import Picture, WorkerSetup
from workers.storage import read_bytes
from workers.style import StyleTarget, style_target, stylise

STYLES_CACHED = 256

Step = Callable[[], None]
Read = Callable[[str], bytes]


def build_engine(setup: WorkerSetup, weights: NDArray[np.uint8], read: Read = read_bytes) -> Engine:
    """The engine of a setup, with the network built from the weights' bytes; `read` gives the job's own images.

    Raises ModelError.
    """
    network = build_network(
        setup.model,
        weights,
        device=setup.device,
        dtype=torch.bfloat16 if setup.precision == "bf16" else torch.float32,
        categories=setup.categories,
        allow_code=setup.allow_code,
    )
    return _ENGINES[setup.task](setup, network, read)


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

    def __init__(self, setup: WorkerSetup, network: Network, read: Read = read_bytes):
        self._setup = setup
        self._network = network
        self._read = read

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
            f"gives it {smallest[1]} x {smallest[0]}: choose earlier layers, fewer octaves or a larger short_side",
        )

    def _pixels(self, items: Sequence[Item]) -> Tensor:
        stacked = torch.from_numpy(np.stack([item.decoded.pixels for item in items])).to(self._setup.device)
        return stacked.permute(0, 3, 1, 2).float().div(255)  # a view of H x W x 3: channels_last as it is

    def _picture(self, picture: Picture) -> Tensor:
        """An image that the job names: 1 x 3 x H x W, at the short side of the job's images."""
        data = self._read(picture.uri)
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise ModelError(f"{picture.uri} changed since the run began; put the former file back.")
        pixels = decode(data, picture_params(self._setup.images)).pixels
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
        items = _filled(items, size)
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
            for i, picture in enumerate(_to_pictures(dream.images))
        ]


def _dream_layers(params: DeepDreamParams) -> list[str]:
    named = [layer.name for stage in params.stages for layer in stage.layers or ()]
    return [*named, LOGITS] if any(stage.class_ is not None for stage in params.stages) else named


class StyleEngine(Engine):
    """Neural style. The targets of a style are computed once and kept, the most recently used ones."""

    def __init__(self, setup: WorkerSetup, network: Network, read: Read = read_bytes):
        super().__init__(setup, network, read)
        assert isinstance(setup.params, StyleParams)
        assert setup.params.content_layers and setup.params.style_layers
        self._params = setup.params
        self._style_layers = setup.params.style_layers
        network.prune([layer.name for layer in [*setup.params.content_layers, *setup.params.style_layers]])
        self._target = lru_cache(STYLES_CACHED)(self._style_target)

    def _style_target(self, style: int) -> StyleTarget:
        return style_target(self._network, self._picture(self._setup.styles[style]), self._style_layers)

    def run(self, items: Sequence[Item], on_step: Step) -> Sequence[Result | ImageError]:
        """As Engine.run; an item whose style is none of the job's fails."""
        known = [item for item in items if isinstance(item.output.variant.value, int)]
        results = iter(super().run(known, on_step) if known else ())
        return [next(results) if isinstance(item.output.variant.value, int) else _unknown_style(item) for item in items]

    def _compute(self, items: Sequence[Item], size: int, on_step: Step) -> Sequence[Result | ImageError]:
        items = _filled(items, size)
        pixels = self._pixels(items)
        styles = [int(item.output.variant.value) for item in items]  # pyright: ignore[reportArgumentType]
        targets = [self._target(style) for style in styles]
        seeds = [item.seed for item in items]
        styled = stylise(self._network, pixels, targets, self._params, seeds, on_step=on_step)
        losses = [getattr(styled, name).tolist() for name in ("content_loss", "style_loss", "total_loss")]
        results: list[Result | ImageError] = []
        for i, picture in enumerate(_to_pictures(styled.images)):
            style = self._setup.styles[styles[i]]
            columns = {
                "style_uri": style.uri,
                "style_sha256": style.sha256,
                "content_loss": losses[0][i],
                "style_loss": losses[1][i],
                "total_loss": losses[2][i],
                "iterations": styled.iterations[i],
            }
            failed = isinstance(picture, ImageError)
            results.append(picture if failed else PictureResult(picture, columns, shape_of(pixels)))
        return results


def _unknown_style(item: Item) -> ImageError:
    wanted = item.output.variant.value
    return ImageError("unknown_style", f"The style column says {wanted!r}, which is none of the job's styles")


class AttributionEngine(Engine):
    """Integrated gradients."""

    def __init__(self, setup: WorkerSetup, network: Network, read: Read = read_bytes):
        super().__init__(setup, network, read)
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
