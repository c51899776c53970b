"""The engine of attribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workers.assembly import Item, Result
from workers.attribution.baselines import make_baselines
from workers.attribution.choose import choose, label_class
from workers.attribution.heatmap import heatmap
from workers.attribution.integrate import Attribution, integrated_gradients
from workers.attribution.objective import Target
from workers.attribution.predict import predict
from workers.codec import Pixels, encode_npy, encode_png
from workers.engines.base import Engine, Step
from workers.errors import ImageError
from workers.features import Network
from workers.params import AttributionParams
from workers.setup import WorkerSetup


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
        chosen = [Target(0) if isinstance(target, ImageError) else target for target in targets]
        baselines = make_baselines(self._params.baseline, pixels, self._network.mean)
        found = integrated_gradients(
            self._network, pixels, chosen, baselines, self._params, batch=size, on_step=on_step
        )
        shape = "x".join(map(str, (size, *pixels.shape[1:])))
        return [
            target if isinstance(target, ImageError) else self._result(item, target, scores, attribution, shape)
            for item, target, scores, attribution in zip(items, targets, logits, found, strict=True)
        ]

    def _choose(self, item: Item, logits: Tensor) -> Target | ImageError:
        wanted = item.output.variant.value
        assert wanted is not None, "every variant of an attribution has a target"
        try:
            return choose(wanted, logits, item.output.image.label, self._network.categories)
        except ImageError as error:
            return error

    def _result(
        self, item: Item, target: Target, logits: Tensor, attribution: Attribution, shape: str
    ) -> Result | ImageError:
        if attribution.stop_reason == "non_finite":
            return ImageError(
                "not_finite", "The network gave NaN or infinity on the way from the baseline to this image"
            )
        columns = {
            **_class_columns(item, target, logits, self._network.categories),
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
