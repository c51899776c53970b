"""The engine of attribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.assembly import Item, Lot, Result
from workers.attribution.average import Explanation
from workers.attribution.axioms.subject import Subject
from workers.attribution.baselines import image_baselines
from workers.attribution.captum import prepared
from workers.attribution.choose import choose, label_class
from workers.attribution.flags import flags
from workers.attribution.heatmap import heatmap
from workers.attribution.measures import Options, measure
from workers.attribution.methods import NEED_BASELINE, explain_by, method_name
from workers.attribution.objective import Target
from workers.attribution.paths import explain
from workers.attribution.predict import predict
from workers.batching import Frame
from workers.codec import Pixels, encode_npy, encode_png
from workers.engines.base import Engine, Read, Step, Supply, shape_of
from workers.errors import ImageError
from workers.features import Network
from workers.folding import fast_form
from workers.params import AttributionParams, Baseline, ImageParams
from workers.setup import WorkerSetup
from workers.storage import read_bytes

FRAMES_CACHED = 16
"""Frames for which given baselines are kept."""


@dataclass(frozen=True)
class MapResult:
    """A signed attribution map, H x W float32, of a picture."""

    map: NDArray[np.float32]
    pixels: Pixels
    columns: dict[str, Any]
    batch_shape: str
    absolute: bool = False

    def encode(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """The map as .npy, and as a heatmap over the picture; the heatmap's scale is a column."""
        overlay, scale = heatmap(self.map, self.pixels, absolute=self.absolute, title=_title(self.columns))
        return {"npy": encode_npy(self.map), "png": encode_png(overlay)}, {**self.columns, "heatmap_scale": scale}


class AttributionEngine(Engine):
    """Integrated gradients, or another method, with the measures that the job asks for."""

    def __init__(self, setup: WorkerSetup, network: Network, read: Read = read_bytes):
        super().__init__(setup, network, read)
        assert isinstance(setup.params, AttributionParams)
        self._params = setup.params
        self._explain = explain
        self._fast = network
        if setup.params.method == "integrated_gradients":
            self._fast = fast_form(network)
        else:
            taken = prepared(network, method_name(setup.params.method))
            self._explain = partial(explain_by, setup.params.method, taken)
        self._given = lru_cache(FRAMES_CACHED)(self._given_images)

    def _compute(self, items: Sequence[Item], size: int, on_step: Step, more: Supply) -> Iterator[Lot]:
        pixels = self._pixels(items)
        logits = predict(self._fast, pixels, batch=size, on_step=on_step).double()
        targets = [self._choose(item, scores) for item, scores in zip(items, logits, strict=True)]
        chosen = [Target(0) if isinstance(target, ImageError) else target for target in targets]
        options: Options = {
            "seeds": [item.seed for item in items],
            "given": self._given(items[0].decoded.frame),
            "batch": size,
            "on_step": on_step,
        }
        found = self._explain(self._fast, pixels, chosen, params=self._params, **options)
        measured = measure(self._fast, pixels, chosen, found, self._params, **options)
        shape = shape_of(size, pixels[0])
        each = zip(items, targets, zip(logits, found, measured, strict=True), strict=True)
        yield [
            (item, target if isinstance(target, ImageError) else self._result(item, target, *figures, shape))
            for item, target, figures in each
        ]

    @property
    def network(self) -> Network:
        """The network that is explained."""
        return self._network

    def subject(self, item: Item, exact: Network, intervals: int) -> Subject:
        """An item as the axioms are checked on it, with its first baseline; `exact` is the network in fp64.

        Raises ImageError if there is no target.
        """
        image = self._pixels([item])
        logits = predict(self._network, image, batch=1)[0].double()
        wanted = item.output.variant.value
        assert wanted is not None, "every variant of an attribution has a target"
        target = choose(wanted, logits, item.output.image.label, self._network.categories)
        given = self._given(item.decoded.frame)
        baselines = image_baselines(
            self._params.baselines, image[0], mean=self._network.mean, given=given, seed=item.seed
        )
        size = self.batch_size(item.decoded.frame)
        return Subject(self._network, exact, image, baselines[:1], target, self._params, size, intervals)

    def _choose(self, item: Item, logits: Tensor) -> Target | ImageError:
        wanted = item.output.variant.value
        assert wanted is not None, "every variant of an attribution has a target"
        try:
            return choose(wanted, logits, item.output.image.label, self._network.categories)
        except ImageError as error:
            return error

    def _given_images(self, frame: Frame) -> list[Tensor]:
        """The images of each given baseline, cut to the frame: k x 3 x H x W."""
        cut = ImageParams(frame=frame, enlarge=True)
        return [torch.cat([self._picture(p, cut) for p in pictures]) for pictures in self._setup.baselines]

    def _result(
        self,
        item: Item,
        target: Target,
        logits: Tensor,
        explanation: Explanation,
        measured: dict[str, float],
        shape: str,
    ) -> Result | ImageError:
        if explanation.stop_reason == "non_finite":
            return ImageError(
                "not_finite", "The network gave NaN or infinity on the way from the baseline to this image"
            )
        columns = {
            **_asked(self._params),
            **_class_columns(item, target, logits, self._network.categories),
            **{name: value for name, value in vars(explanation).items() if name != "map"},
            **measured,
        }
        columns["flags"] = flags(columns)
        absolute = self._params.overlay == "absolute"
        return MapResult(explanation.map.float().cpu().numpy(), item.decoded.pixels, columns, shape, absolute)


def _title(columns: Mapping[str, Any]) -> str:
    """What a heatmap explains: the class, or the class and the one it is held against, and how probable it is."""
    of, against = (columns[f"{name}_name"] or columns[name] for name in ("target", "against"))
    rest = "" if against is None else f", not {against}"
    return f"{of if isinstance(of, str) else f'class {of}'}{rest}: {columns['probability']:.0%}"


def _asked(params: AttributionParams) -> dict[str, Any]:
    """The columns that say how the map was made; a baseline that the method doesn't use is null."""
    method = method_name(params.method)
    uses_baseline = method == "integrated_gradients" or method in NEED_BASELINE
    return {"method": method, "baseline": "+".join(map(_name, params.baselines)) if uses_baseline else None}


def _name(baseline: Baseline) -> str:
    return baseline if isinstance(baseline, str) else next(f"{key}:{value}" for key, value in baseline)


def _class_columns(item: Item, target: Target, logits: Tensor, names: Sequence[str] | None) -> dict[str, Any]:
    """The columns that say what was explained, what the network predicts, and whether the label agrees."""
    probabilities = logits.softmax(0)
    predicted = int(logits.argmax())
    label = label_class(item.output.image.label, len(logits), names)

    def name(index: int | None) -> str | None:
        return None if names is None or index is None else names[index]

    return {
        "target": target.category,
        "target_name": name(target.category),
        "target_source": str(item.output.variant.value),
        "against": target.against,
        "against_name": name(target.against),
        "predicted": predicted,
        "predicted_name": name(predicted),
        "predicted_probability": float(probabilities[predicted]),
        "probability": float(probabilities[target.category]),
        "label_class": label,
        "correct": None if label is None else label == predicted,
    }
