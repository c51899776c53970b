"""The same function as another network: deeper, with ReLUs written otherwise, with BatchNorm folded."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from workers.features import LOGITS, Network


def deeper(network: Network) -> tuple[Network, int]:
    """Behind each ReLU a convolution that copies its input, and one more ReLU. Gives the copy and their number."""
    return rewritten(network, lambda layer: nn.Sequential(layer, _Copy(), nn.ReLU()) if is_relu(layer) else None)


def absolute(network: Network) -> tuple[Network, int]:
    """ReLU(x) as (x + |x|) / 2, ReLU6(x) as (6 + |x| - |x - 6|) / 2. Gives the copy and their number."""
    return rewritten(network, lambda layer: _Absolute(isinstance(layer, nn.ReLU6)) if is_relu(layer) else None)


def folded(network: Network, image: Tensor) -> tuple[Network, int]:
    """BatchNorm put into the convolution before it. Gives the copy and how many there were.

    `image` (1 x 3 x H x W) shows which convolution's output which BatchNorm gets.
    """
    copy = deepcopy(network)
    pairs = _pairs(copy, image)
    for path, (convolution, norm) in pairs.items():
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.weight, convolution.bias = weight, bias
        _put(copy.module, path, _rest(norm))
    return copy.requires_grad_(False), len(pairs)


def is_relu(layer: nn.Module) -> bool:
    """Whether a layer is a ReLU or ReLU6."""
    return isinstance(layer, nn.ReLU | nn.ReLU6)


def rewritten(network: Network, replacement: Callable[[nn.Module], nn.Module | None]) -> tuple[Network, int]:
    """A copy of the network with some layers replaced, and how many."""
    copy = deepcopy(network)
    found = {path: new for path, layer in copy.module.named_modules() if path and (new := replacement(layer))}
    for path, new in found.items():
        _put(copy.module, path, new)
    return copy, len(found)


class _Copy(nn.Module):
    """A 1 x 1 convolution, channel by channel, with weights of 1."""

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim != 4:
            return inputs * 1
        channels = inputs.shape[1]
        return nn.functional.conv2d(inputs, inputs.new_ones(channels, 1, 1, 1), groups=channels)


class _Absolute(nn.Module):
    def __init__(self, capped: bool):
        super().__init__()
        self.capped = capped

    def forward(self, inputs: Tensor) -> Tensor:
        return (6 + inputs.abs() - (inputs - 6).abs()) / 2 if self.capped else (inputs + inputs.abs()) / 2


def _put(module: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(module.get_submodule(parent), attribute, layer)


def _rest(norm: nn.Module) -> nn.Module:
    """What a norm does besides: timm's have an activation, and a dropout that is off."""
    rest = [layer for name in ("drop", "act") if isinstance(layer := getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*rest)


def _pairs(network: Network, image: Tensor) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """BatchNorms by path, each with the convolution whose output it gets; both are called once."""
    outputs: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # alive, so that no other tensor gets its identity
    pairs: dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]] = {}

    def after(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        kept.append(output)
        outputs[id(output)] = layer

    def before(path: str, layer: nn.BatchNorm2d) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if convolution := outputs.get(id(inputs[0])):
                pairs[path] = (convolution, layer)

        return look

    handles = []
    for path, layer in network.module.named_modules():
        if network.trace.calls.get(path) != 1:
            continue
        if isinstance(layer, nn.Conv2d):
            handles.append(layer.register_forward_hook(after))
        elif isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats:
            handles.append(layer.register_forward_pre_hook(before(path, layer)))
    try:
        with torch.no_grad():
            network(image, [LOGITS])
    finally:
        for handle in handles:
            handle.remove()
    return pairs
