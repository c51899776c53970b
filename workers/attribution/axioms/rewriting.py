"""The same function as another network: deeper, or with ReLUs written otherwise."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from torch import Tensor, nn

from workers.features import Network
from workers.folding import put_layer


def deeper(network: Network) -> tuple[Network, int]:
    """Behind each ReLU a convolution that copies its input, and one more ReLU. Gives the copy and their number."""
    return rewritten(network, lambda layer: nn.Sequential(layer, _Copy(), nn.ReLU()) if is_relu(layer) else None)


def absolute(network: Network) -> tuple[Network, int]:
    """ReLU(x) as (x + |x|) / 2, ReLU6(x) as (6 + |x| - |x - 6|) / 2. Gives the copy and their number."""
    return rewritten(network, lambda layer: _Absolute(isinstance(layer, nn.ReLU6)) if is_relu(layer) else None)


def is_relu(layer: nn.Module) -> bool:
    """Whether a layer is a ReLU or ReLU6."""
    return isinstance(layer, nn.ReLU | nn.ReLU6)


def rewritten(network: Network, replacement: Callable[[nn.Module], nn.Module | None]) -> tuple[Network, int]:
    """A copy of the network with some layers replaced, and how many."""
    copy = deepcopy(network)
    found = {path: new for path, layer in copy.module.named_modules() if path and (new := replacement(layer))}
    for path, new in found.items():
        put_layer(copy.module, path, new)
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
