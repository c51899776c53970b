"""What a model is, asked of a process that may import torch, for callers that may not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from workers.classes import class_index
from workers.download import hub_folder
from workers.errors import ModelError
from workers.layers import LOGITS, TASKS, LayerInfo, Task, default_layers, unknown_layer
from workers.params import Layer, ModelParams
from workers.weights import PACKAGED, HubEntry, WeightsFile, hub_weights, local_weights, read_classes

_CHILD = (  # the package this process uses, wherever it was found; nothing else from there
    "import sys; sys.path.insert(0, sys.argv[1]); import workers; del sys.path[0]; "
    "from workers.describe import main; main()"
)


@dataclass(frozen=True)
class ModelDescription:
    """A model as the driver needs to know it.

    `layers` in order of execution, with `LOGITS` as the last if there is a classifier. `categories` are
    class names, if known. `mean` and `std` are RGB in [0, 1]. `input_side`
    is the side in pixels that the weights are used with; with `fixed_side` no larger image is accepted. `hub` is where
    to download the weights, `weights_path` a file that the model function's own weights were saved to.
    """

    name: str
    layers: list[LayerInfo]
    categories: list[str] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_side: int
    fixed_side: bool
    hub: HubEntry | None
    weights_path: str | None

    @cached_property
    def classes(self) -> int | None:
        """The number of classes, None without a classifier."""
        return next((layer.channels for layer in self.layers if layer.path == LOGITS), None)

    def layer(self, name: str) -> LayerInfo:
        """The layer of that friendly name or path. Raises ModelError, listing the valid ones."""
        if name == LOGITS and self.classes is None:
            raise ModelError("these weights have no classifier: choose others for classes and attribution")
        for layer in self.layers:
            if name in (layer.name, layer.path):
                return layer
        raise unknown_layer(name, [layer.name for layer in self.layers])

    def defaults(self, task: Task) -> list[str]:
        """Layers that suit a task. Raises ModelError where there is no default, asking to name some."""
        return default_layers(self.name, self.layers, task)

    @cached_property
    def default_layers(self) -> dict[Task, list[str]]:
        """The default layers of every task that has some."""
        found: dict[Task, list[str]] = {}
        for task in TASKS:
            with suppress(ModelError):
                found[task] = self.defaults(task)
        return found

    def check_layers(self, layers: Sequence[Layer], *, maps_only: bool = False) -> None:
        """Raise ModelError for an unknown layer, an unknown channel or, if asked, a layer without positions."""
        for wanted in layers:
            layer = self.layer(wanted.name)
            if layer.stride is None and (maps_only or (wanted.channels and layer.channels is None)):
                raise ModelError(f"layer {wanted.name} gives no channels x height x width: choose another")
            if wanted.channels and layer.channels is not None and max(wanted.channels) >= layer.channels:
                raise ModelError(
                    f"layer {wanted.name} has channels 0 to {layer.channels - 1}, not {max(wanted.channels)}"
                )

    def min_side(self, layers: Sequence[str]) -> int:
        """The smallest square side in pixels from which all of `layers` can be computed. Raises ModelError."""
        return max((self.layer(name).min_side for name in layers), default=1)

    def class_index(self, wanted: int | str) -> int:
        """The index of a class given by index or name; see `workers.classes`. Raises ModelError."""
        return class_index(wanted, self.layer(LOGITS).channels or 0, self.categories)


@dataclass(frozen=True)
class PreparedModel:
    """A model ready to be shipped: what it is, and its weights on this machine's disk."""

    params: ModelParams
    description: ModelDescription
    weights: WeightsFile


@dataclass(frozen=True)
class CatalogueEntry:
    """Weights that a job file can name: `model` and `weights`, where they come from, and `path` if they are here."""

    model: str
    weights: str
    source: str
    licence: str | None
    path: Path | None


def prepare_model(params: ModelParams, *, allow_code: bool = False) -> PreparedModel:
    """Find, fetch and check a model's weights, once for a whole run.

    Raises ModelError (or StorageError for a URI) with one sentence: unknown model or weights, no such file, no network,
    wrong hash, a checkpoint that doesn't fit, class names that don't.
    """
    local = local_weights(params)
    description = describe_model(params, local, allow_code=allow_code)
    if description.hub and not local:
        return PreparedModel(params, description, hub_weights(description.hub))
    saved = local or WeightsFile(Path(description.weights_path or ""), params.name)
    return PreparedModel(params, description, saved)


def describe_model(params: ModelParams, weights: WeightsFile | None, *, allow_code: bool = False) -> ModelDescription:
    """Build the model in a process of its own and say what it is.

    `weights` are its local weights; None if the hub, or the model function, has them. Raises ModelError.
    """
    request = {
        "params": params.model_dump(),
        "weights": str(weights.path) if weights else None,
        "allow_code": allow_code,
        "classes": read_classes(params),
    }
    return TypeAdapter(ModelDescription).validate_python(_ask(request))


def catalogue() -> list[CatalogueEntry]:
    """The weights that install with pip, then the hub's, with what is already on this machine."""
    packaged = [
        CatalogueEntry(model, "DEFAULT", f"pip: {weights.distribution}", weights.licence, weights.path())
        for model, weights in PACKAGED.items()
    ]
    cached = {path.name: path for path in hub_folder().glob("*")}
    hub = [
        CatalogueEntry(entry["model"], entry["weights"], entry["url"], entry["licence"], cached.get(entry["file"]))
        for entry in _ask({"catalogue": True})["catalogue"]
    ]
    return packaged + hub


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    home = str(Path(__file__).parent.parent)
    child = subprocess.run(
        [sys.executable, "-P", "-c", _CHILD, home],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        raise RuntimeError(f"the process that looks at models ended with {child.returncode}:\n{child.stderr}")
    answer = json.loads(child.stdout.splitlines()[-1])
    if "error" in answer:
        raise ModelError(answer["error"])
    return answer
