from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from workers.description import prepare_model
from workers.features import LOGITS, Network
from workers.folding import fast_form, working_form
from workers.models import build_network
from workers.params import ModelParams, Pooling


class Shared(nn.Module):
    """The convolution's output goes into its norm and past it, so that folding would change the function."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), spread(nn.BatchNorm2d(4))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.convolution(pixels)
        return (features + self.norm(features)).mean((2, 3))


def spread(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """With statistics of its own."""
    norm.running_mean, norm.running_var = torch.randn(norm.num_features), torch.rand(norm.num_features) + 0.5
    return norm


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


def test_a_norm_stays_where_a_block_ends_in_the_convolution_before_it() -> None:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 4, 3), spread(nn.BatchNorm2d(4)), nn.ReLU(), nn.Conv2d(4, 4, 3))
    network = as_network(nn.Sequential(stem, spread(nn.BatchNorm2d(4)), nn.ReLU()))
    assert norms(fast_form(network, ["0", "2"])) == 1
    assert norms(fast_form(network, ["2"])) == 0


def test_folding_is_judged_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 would move a layer by more than a wrong folding may."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = set[bool]()

    class Watched(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            seen.add(torch.backends.cudnn.allow_tf32)
            return super().forward(input)

    network = as_network(Watched(nn.Conv2d(3, 4, 3), spread(nn.BatchNorm2d(4))))
    seen.clear()
    assert norms(fast_form(network, ["1"])) == 0 and seen == {False}


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_job_runs_what_its_layers_need_in_its_precision(pooling: Pooling, precision: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), spread(nn.BatchNorm2d(8)), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    ).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    whole = as_network(deepcopy(module))
    if pooling == "average":
        whole.pool_by_average()
    form = working_form(as_network(module), ["3"], pooling, precision)
    layers = [type(layer).__name__ for layer in form.module.children()]
    pool = {"max": "MaxPool2d", "average": "AvgPool2d"}[pooling]
    assert layers == ["Conv2d", "Sequential", pool, "Conv2d", "Identity"]
    convolution, norm = whole.module.get_submodule("0"), whole.module.get_submodule("1")
    wanted = nn.utils.fuse_conv_bn_eval(convolution, norm).weight  # pyright: ignore[reportArgumentType]
    weight = form.module.get_submodule("0").weight
    assert isinstance(weight, torch.Tensor) and weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, wanted.bfloat16() if precision == "bf16" else wanted), "rounded once, after folding"
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found, exact = form(pixels, ["3"])["3"], whole(pixels, ["3"])["3"]
    most = 2e-2 if precision == "bf16" else 1e-5
    assert found.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert (found - exact).abs().max() <= most * exact.abs().max()


def test_a_network_that_folding_would_change_stays_as_it_is() -> None:
    torch.manual_seed(0)
    network = as_network(Shared())
    assert fast_form(network) is network and norms(network) == 1


def test_a_network_without_norms_is_itself() -> None:
    network = as_network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert fast_form(network) is network
