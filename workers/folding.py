"""The form in which a network runs fastest: cut, and BatchNorm put into the convolutions before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from workers.features import LOGITS, Network
from workers.params import Pooling
from workers.precision import full_precision

SAME = 1e-4
"""How far a layer may be off after folding, relative to its largest value, to be that of the same function in fp32."""

Pairs = Mapping[str, str]
"""Paths of BatchNorms, and of the convolutions before them."""


def working_form(network: Network, layers: Sequence[str], pooling: Pooling, precision: str) -> Network:
    """What a job runs: nothing behind `layers`, with its pooling, folded where that is possible, in its precision.

    `network`, in fp32, is used up by it; `precision` is fp32 or bf16. Raises ModelError for a layer it doesn't have, or
    where there is no pooling that could average.
    """
    network.prune(layers)
    if pooling == "average":
        network.pool_by_average()
    fast = fast_form(network, layers)
    if precision == "bf16":
        fast.halve()
    return fast


def fast_form(network: Network, layers: Sequence[str] = (LOGITS,)) -> Network:
    """The fp32 network with BatchNorm folded where that is possible and `layers` stay as they were; else itself.

    Gradients to the pixels take 0.6 to 0.8 of the time; they differ by what fp32 rounds.
    """
    random = torch.Generator().manual_seed(0)
    side = network.input_side
    image = torch.rand(1, 3, side, side, generator=random).to(network.mean)
    with full_precision(), torch.no_grad():
        copy, count = folded(network, image, layers)
        if not count:
            return network
        before, after = network(image, layers), copy(image, layers)
    return copy if all(_is_same(after[name], before[name]) for name in layers) else network


def _is_same(values: Tensor, wanted: Tensor) -> bool:
    return bool((values - wanted).abs().max() <= SAME * wanted.abs().max())


def folded(network: Network, image: Tensor, layers: Sequence[str] = (LOGITS,)) -> tuple[Network, int]:
    """BatchNorm put into the convolution before it. Gives a copy, or the network itself, and how many there were.

    A convolution whose output is that of one of `layers` keeps its BatchNorm. `image` (1 x 3 x H x W) shows which
    convolution's output which BatchNorm gets.
    """
    pairs = _pairs(network, image, layers)
    return (_without_norms(network, pairs) if pairs else network), len(pairs)


def _without_norms(network: Network, pairs: Pairs) -> Network:
    copy = deepcopy(network)
    for path, before in pairs.items():
        norm, convolution = copy.module.get_submodule(path), copy.module.get_submodule(before)
        assert isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d)
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.weight, convolution.bias = weight, bias
        put_layer(copy.module, path, _rest(norm))
    return copy.requires_grad_(False)


def put_layer(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one at a path."""
    parent, _, attribute = path.rpartition(".")
    setattr(module.get_submodule(parent), attribute, layer)


def _rest(norm: nn.Module) -> nn.Module:
    """What a norm does besides, under the names it has there: timm's have an activation, and a dropout that is off."""
    return nn.Sequential(OrderedDict(norm.named_children()))


def _pairs(network: Network, image: Tensor, layers: Sequence[str]) -> Pairs:
    """BatchNorms, each with the convolution whose output it gets and nobody looks at; both are called once."""
    once = [(path, layer) for path, layer in network.module.named_modules() if network.trace.calls.get(path) == 1]
    if not any(isinstance(layer, nn.BatchNorm2d) for _, layer in once):
        return {}
    outputs: dict[int, str] = {}  # of convolutions, by identity
    kept: list[Tensor] = []  # alive, so that no other tensor gets its identity
    pairs: dict[str, str] = {}

    def after(path: str) -> Callable[[nn.Module, object, Tensor], None]:
        def note(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
            kept.append(output)
            outputs[id(output)] = path

        return note

    def before(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def pair(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if convolution := outputs.get(id(inputs[0])):
                pairs[path] = convolution

        return pair

    def looked_at(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.pop(id(output), None)

    handles = []
    for path, layer in once:
        if isinstance(layer, nn.Conv2d):
            handles.append(layer.register_forward_hook(after(path)))
        elif isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats:
            handles.append(layer.register_forward_pre_hook(before(path)))
    for path in {network.resolve(name) for name in layers} - {LOGITS}:
        handles.append(network.module.get_submodule(path).register_forward_hook(looked_at))
    try:
        with torch.no_grad():
            network(image, layers)
    finally:
        for handle in handles:
            handle.remove()
    return pairs
