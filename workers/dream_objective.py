"""What a dream climbs: one number for each image, from activations of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from workers.errors import ModelError
from workers.features import LOGITS, Network
from workers.params import DreamLayer, Layer, Stage

Objective = Callable[[Tensor], Tensor]
"""Pixels (B x 3 x H x W in [0, 1]) to one value for each image (B), float32 or wider."""

_MATCH_ELEMENTS = 2**24
"""Dot products of image and guide positions held at a time: 64 MiB in float32."""


@dataclass(frozen=True)
class StagePlan:
    """A stage with everything looked up: nothing in it names a default, a class or a file any more.

    `layers`: what to amplify. `class_index`: a class beside them, or alone. `guides`: for each layer's `guide` what
    `guide_features` returns for that picture. `channels` (B, int64): of the one layer, the channel that each image of
    the batch amplifies, instead of the layer's own.
    """

    stage: Stage
    layers: Sequence[DreamLayer] = ()
    class_index: int | None = None
    guides: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    channels: Tensor | None = None


def guide_features(network: Network, image: Tensor, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Activations of a guide image (3 x h x w in [0, 1], any size): for each layer's name C x M, M positions.

    Float32, or wider if the network is. Raises ModelError for an unknown layer.
    """
    with torch.no_grad():
        activations = network(image.unsqueeze(0), [layer.name for layer in layers])
    return {name: _wide(features[0].reshape(features.shape[1], -1)) for name, features in activations.items()}


def stage_objective(network: Network, plan: StagePlan, *, maximise_activation: bool) -> Objective:
    """The objective of a stage: for each image the weighted sum of its terms.

    With F a layer's activations (only the chosen channels and the chosen position, if any), n of them, these are

    - a layer: |F|^2 / (2 n) (Mordvintsev et al. 2015 without n, which makes weights comparable between layers of
      different size);
    - a layer with a guide: <F, G> / n, where G has at each position the guide's feature vector with the largest dot
      product, held constant (the notebook's guided dream);
    - a class: its logit.

    With `maximise_activation`, layers with chosen channels and no guide count by mean(F) instead, so that the gradient
    is one for the chosen filters and zero elsewhere; and if the layer is a ReLU, F is what goes into it, because a
    blank image leaves many filters silent and nothing flows back through a silent ReLU.

    Raises ModelError for a layer it doesn't know; the objective raises it for a channel or class that isn't there.
    """
    chosen = [layer.channels is not None or plan.channels is not None for layer in plan.layers]
    maximised = [maximise_activation and c and not layer.guide for c, layer in zip(chosen, plan.layers, strict=True)]
    terms = [_layer_term(layer, plan, m, network.mean.device) for layer, m in zip(plan.layers, maximised, strict=True)]
    names = [layer.name for layer in plan.layers]
    relus = _relus(network, [name for name, m in zip(names, maximised, strict=True) if m])
    from_inputs = [m and name in relus for name, m in zip(names, maximised, strict=True)]
    if plan.class_index is not None:
        names, from_inputs = [*names, LOGITS], [*from_inputs, False]
        terms = [*terms, partial(_class_logit, plan.class_index, plan.stage.class_weight)]
    captured = list(dict.fromkeys(names))

    def weighted_sum(pixels: Tensor) -> Tensor:
        with _inputs_of(relus) as inputs:
            outputs = network(pixels, captured)
        values = [
            term((inputs if from_input else outputs)[name])
            for term, name, from_input in zip(terms, names, from_inputs, strict=True)
        ]
        return torch.stack(values).sum(0)

    return weighted_sum


def _class_logit(index: int, weight: float, logits: Tensor) -> Tensor:
    _require_index(LOGITS, index, logits)
    return weight * _wide(logits[:, index])


def _relus(network: Network, layers: Sequence[str]) -> dict[str, nn.Module]:
    """Those of `layers` that are ReLUs, by name."""
    modules = dict(network.module.named_modules())
    found = {name: modules.get(network.resolve(name)) for name in layers}
    return {name: module for name, module in found.items() if isinstance(module, nn.ReLU | nn.ReLU6)}


@contextmanager
def _inputs_of(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """A dict that fills, during a run of the network, with the input of each module's last call."""
    inputs: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in modules.items():
            keep = partial(_keep_input, inputs, name)
            hooks.enter_context(module.register_forward_pre_hook(keep))
        yield inputs


def _keep_input(inputs: dict[str, Tensor], name: str, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    inputs[name] = arguments[0]


def _layer_term(
    layer: DreamLayer, plan: StagePlan, maximised: bool, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """From a layer's activations to its weighted value for each image (B)."""
    wanted = layer.channels or []
    index = torch.tensor(wanted, dtype=torch.long, device=device)  # made once: a copy inside the loop would wait

    def choose(features: Tensor, dim: int) -> Tensor:
        return features.index_select(dim, index) if wanted else features

    value = _image_mean if maximised else _half_mean_square
    if layer.guide:
        value = partial(_guided, guide=choose(plan.guides[layer.guide][layer.name], 0))

    def term(features: Tensor) -> Tensor:
        _require_index(layer.name, max(wanted, default=0), features)
        features = choose(features, 1) if plan.channels is None else _own_channel(features, plan.channels)
        return layer.weight * value(_wide(_at(layer.position, features)))

    return term


def _own_channel(features: Tensor, channels: Tensor) -> Tensor:
    """One channel of each image, its own: B x 1 x h x w."""
    return features[torch.arange(len(features), device=features.device), channels][:, None]


def _at(position: tuple[float, float] | None, features: Tensor) -> Tensor:
    """The activations at one position (down and across, as shares of the sides); all of them without."""
    if position is None:
        return features
    row, column = (min(side - 1, int(p * side)) for p, side in zip(position, features.shape[-2:], strict=True))
    return features[..., row : row + 1, column : column + 1]


def _half_mean_square(features: Tensor) -> Tensor:
    return _image_mean(features.square()) / 2


def _guided(features: Tensor, guide: Tensor) -> Tensor:
    positions = features.reshape(*features.shape[:2], -1)
    with torch.no_grad():
        best = torch.stack([_best_matches(image, guide) for image in positions])
    return _image_mean(positions * best)


def _best_matches(features: Tensor, guide: Tensor) -> Tensor:
    """For each column of `features` (C x N) the column of `guide` (C x M) with the largest dot product: C x N."""
    blocks = features.split(max(1, _MATCH_ELEMENTS // guide.shape[1]), dim=1)
    return torch.cat([guide[:, (guide.T @ block).argmax(0)] for block in blocks], dim=1)


def _image_mean(features: Tensor) -> Tensor:
    return features.mean(dim=tuple(range(1, features.dim())))


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _require_index(layer: str, index: int, features: Tensor) -> None:
    count = features.shape[1]
    if index >= count:
        raise ModelError(f"layer {layer!r} has channels 0 to {count - 1}: there is no {index}, give one of those")
