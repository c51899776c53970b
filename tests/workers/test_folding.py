from __future__ import annotations

import torch
from torch import nn

from workers.description import prepare_model
from workers.features import LOGITS, Network
from workers.folding import fast_form
from workers.models import build_network
from workers.params import ModelParams


class Shared(nn.Module):
    """The convolution's output goes into its norm and past it, so that folding would change the function."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_mean, self.norm.running_var = torch.randn(4), torch.rand(4) + 0.5

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.convolution(pixels)
        return (features + self.norm(features)).mean((2, 3))


def as_network(module: nn.Module) -> Network:
    return Network(module, [0.5] * 3, [0.2] * 3, input_side=32)


def norms(network: Network) -> int:
    """How many run."""
    return sum(isinstance(network.module.get_submodule(path), nn.BatchNorm2d) for path in network.trace.calls)


def test_a_real_network_keeps_its_logits_and_gradients_without_its_norms() -> None:
    params = ModelParams(name="efficientnet_lite0")
    network = build_network(params, prepare_model(params).weights.read())
    fast = fast_form(network)
    assert (norms(network), norms(fast)) == (49, 0)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for each in (network, fast):
        points = pixels.clone().requires_grad_()
        logits = each(points, [LOGITS])[LOGITS]
        gradients.append((logits.detach(), torch.autograd.grad(logits[:, 7].sum(), points)[0]))
    (logits, gradient), (fast_logits, fast_gradient) = gradients
    assert (fast_logits - logits).abs().max() < 1e-4 * logits.abs().max()
    assert (fast_gradient - gradient).abs().sum() < 5e-3 * gradient.abs().sum()


def test_layers_that_are_looked_at_stay_as_they_were() -> None:
    params = ModelParams(name="efficientnet_lite0")
    network = build_network(params, prepare_model(params).weights.read())
    layers = ["conv_stem", "blocks.1.0.conv_pw", "blocks.1.0.bn1", "blocks.1.0.bn2.act", "blocks.3"]
    network.prune(layers)
    fast = fast_form(network, layers)
    assert (norms(network), norms(fast)) == (24, 2), "two convolutions are looked at"
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, found = network(pixels, layers), fast(pixels, layers)
    for name in layers:
        assert (found[name] - wanted[name]).abs().max() <= 1e-4 * wanted[name].abs().max(), name


def test_a_network_that_folding_would_change_stays_as_it_is() -> None:
    torch.manual_seed(0)
    network = as_network(Shared())
    assert fast_form(network) is network and norms(network) == 1


def test_a_network_without_norms_is_itself() -> None:
    network = as_network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert fast_form(network) is network
