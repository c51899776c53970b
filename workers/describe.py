"""A process of its own that builds a model and says what it is: JSON in on stdin, one line of JSON out on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import safetensors.torch
import torchvision.models as zoo
from torch import nn

from workers.checkpoints import read_state
from workers.download import store
from workers.errors import ModelError, PixgradError
from workers.features import Network
from workers.layers import LOGITS, LayerInfo
from workers.models import Architecture, as_network, empty_module, find_architecture, hub_entry, load_state
from workers.params import ModelParams
from workers.trace import has_fixed_side, smallest_sides


def main() -> None:
    """Answer one request. An expected error is an answer too: {"error": sentence}."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # what imported code prints is not the answer
        try:
            answer = {"catalogue": hub_catalogue()} if request.get("catalogue") else describe(**request)
        except PixgradError as error:
            answer = {"error": str(error)}
    print(json.dumps(answer))


def describe(
    params: dict[str, Any], weights: str | None, allow_code: bool, classes: list[str] | None
) -> dict[str, Any]:
    """The fields of `workers.description.ModelDescription`.

    `weights` is the file with the model's weights, None if they are the hub's (then the model is built without numbers)
    or the model function's own (then they are saved to a file). Raises ModelError.
    """
    model = ModelParams.model_validate(params)
    architecture = find_architecture(model, allow_code=allow_code)
    saved = _save_own_weights(architecture, model) if weights is None and architecture.hub is None else None
    path = weights or saved
    module = _load(architecture, path, model.name) if path else empty_module(architecture)
    network = as_network(model, architecture, module, categories=classes)
    if classes is not None and len(classes) != network.classes:
        raise ModelError(f"{model.classes} names {len(classes)} classes, {model.name} has {network.classes or 'none'}")
    return {
        "name": model.name,
        "layers": [asdict(layer) for layer in _measured(network)],
        "categories": network.categories if network.classes else None,
        "mean": architecture.mean,
        "std": architecture.std,
        "input_side": architecture.input_side,
        "fixed_side": has_fixed_side(network.module, network.trace, network.input_side),
        "hub": asdict(architecture.hub) if architecture.hub and weights is None else None,
        "weights_path": saved,
    }


def hub_catalogue() -> list[dict[str, Any]]:
    """Every classifier of torchvision's hub with each of its weights: model, weights, url, file, licence."""
    return [
        {"model": name, "weights": weights.name, **asdict(hub_entry(weights))}
        for name in zoo.list_models(module=zoo)
        for weights in zoo.get_model_weights(name)
    ]


def _load(architecture: Architecture, path: str, name: str) -> nn.Module:
    try:
        return load_state(architecture, read_state(np.fromfile(path, dtype=np.uint8)), name).float()
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _measured(network: Network) -> list[LayerInfo]:
    sides = smallest_sides(network.module, network.trace, network.input_side)
    layers = [replace(layer, min_side=sides[layer.path]) for layer in network.layers()]
    if network.classes:
        layers.append(LayerInfo(LOGITS, LOGITS, "output", network.classes, None, sides[""]))
    return layers


def _save_own_weights(architecture: Architecture, model: ModelParams) -> str:
    module = architecture.construct(None)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    name = PurePosixPath(model.name.replace(":", "-")).name
    return str(Path(store(safetensors.torch.save(state), f"{name}.safetensors")))
