"""Activations are what the layers gave, and no more is computed than is asked for."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn

from workers.errors import ModelError
from workers.features import LOGITS, Network
from workers.models import IMAGENET_MEAN, IMAGENET_STD, vgg_aliases


def network_of(name: str, **options) -> Network:
    torch.manual_seed(0)
    if name == "resnet18":
        return Network(zoo.resnet18(), IMAGENET_MEAN, IMAGENET_STD, **options)
    vgg = nn.Sequential(
        OrderedDict(
            features=zoo.vgg.make_layers([8, "M", 16, "M", 32, 32, "M", 64, 64, "M"]),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(nn.Linear(64, 10)),
        )
    )
    return Network(vgg, IMAGENET_MEAN, IMAGENET_STD, aliases=vgg_aliases(vgg), **options)


@pytest.fixture(scope="module")
def resnet() -> Network:
    return network_of("resnet18")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_logits_are_the_plain_modules(resnet: Network, pixels: Tensor):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.equal(resnet(pixels, [LOGITS])[LOGITS], resnet.module((pixels - mean) / std))
    assert resnet.classes == 1000


def test_an_activation_survives_what_comes_after_it(resnet: Network, pixels: Tensor):
    # the block adds its shortcut to bn2's output in place
    block = resnet.module.get_submodule("layer1.0")
    found = resnet(pixels, ["maxpool", "layer1.0.bn2", "layer1.0", LOGITS])
    conv = block.get_submodule("conv2")(torch.relu(block.get_submodule("bn1")(block.conv1(found["maxpool"]))))  # type: ignore[operator]
    expected = block.get_submodule("bn2")(conv)
    assert torch.equal(found["layer1.0.bn2"], expected)
    assert torch.equal(found["layer1.0"], torch.relu(expected + found["maxpool"]))
    assert torch.equal(found[LOGITS], resnet(pixels, [LOGITS])[LOGITS])


def test_a_convolution_before_a_relu_keeps_its_negative_values(pixels: Tensor):
    found = network_of("vgg")(pixels, ["conv1_1", "relu1_1"])
    assert found["conv1_1"].min() < 0
    assert torch.equal(found["conv1_1"].relu(), found["relu1_1"])


def test_nothing_deeper_than_the_deepest_layer_runs(resnet: Network, pixels: Tensor):
    ran: list[str] = []
    for name in ("layer2.1", "layer3.0.conv1"):
        resnet.module.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    resnet(pixels, ["layer2", "relu", "layer1.0"])
    assert ran == ["layer2.1"]


def test_layers_come_in_order_of_execution_under_friendly_names():
    names = network_of("vgg").layer_names()
    start = ["conv1_1", "relu1_1", "pool1", "conv2_1"]
    assert names[:4] == start
    assert names.index("relu3_1") < names.index("conv3_2") < names.index("pool4") < names.index("classifier.0")


def test_layers_know_their_channels_and_strides(resnet: Network):
    layers = {layer.name: layer for layer in resnet.layers()}
    assert (layers["layer2"].channels, layers["layer2"].stride, layers["layer2"].kind) == (128, 8, "Sequential")
    assert layers["fc"].stride is None


def test_gradients_reach_the_pixels_and_no_weight(resnet: Network, pixels: Tensor):
    image = pixels.clone().requires_grad_()
    resnet(image, ["layer1.0.bn2", "layer2"])["layer2"].square().mean().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in resnet.parameters())


@pytest.mark.parametrize("name, layers", [("resnet18", ["layer1.0.bn2", "layer2"]), ("vgg", ["relu2_1", "relu3_1"])])
def test_pruning_changes_no_bit_and_frees_the_rest(name: str, layers: list[str], pixels: Tensor):
    network = network_of(name)
    before, size = network(pixels, layers), sum(weight.numel() for weight in network.parameters())
    network.prune(layers)
    after = network(pixels, layers)
    assert all(torch.equal(before[layer], after[layer]) for layer in layers)
    assert sum(weight.numel() for weight in network.parameters()) < size / 8
    for gone in ("layer3", "features.8", LOGITS):
        with pytest.raises(ModelError):
            network.resolve(gone)


def test_pruning_keeps_weights_that_are_used_without_a_call():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.second, self.last = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.conv2d(self.first(x), self.unused.weight)
            return self.last(self.second(x)).mean((2, 3))

    network = Network(Tied(), (0, 0, 0), (1, 1, 1), input_side=32)
    image = torch.rand(1, 3, 32, 32)
    before = network(image, ["second"])["second"]
    network.prune(["second"])
    assert torch.equal(before, network(image, ["second"])["second"])
    assert isinstance(network.module.last, nn.Identity)


def test_average_pooling_averages_the_same_windows(pixels: Tensor):
    pool, last = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), nn.Conv2d(3, 4, 1)
    network = Network(nn.Sequential(pool, last), (0, 0, 0), (1, 1, 1), input_side=32)
    network.pool_by_average()
    within = nn.functional.pad(torch.ones_like(pixels[..., :31, :31]), (1, 2, 1, 2))
    padded = nn.functional.pad(pixels[..., :31, :31], (1, 2, 1, 2))
    expected = (nn.functional.avg_pool2d(padded, 3, 2) / nn.functional.avg_pool2d(within, 3, 2))[..., :16, :16]
    torch.testing.assert_close(network(pixels[..., :31, :31], ["0"])["0"], expected)


def test_a_network_without_max_pooling_says_so():
    with pytest.raises(ModelError, match="no max pooling"):
        Network(nn.Conv2d(3, 4, 1), (0, 0, 0), (1, 1, 1), input_side=32).pool_by_average()


def test_an_unknown_layer_is_answered_with_the_nearest_and_the_valid_ones(resnet: Network):
    with pytest.raises(ModelError, match=r"unknown layer 'layer5'; nearest: layer\d.*has: conv1, bn1, relu, maxpool"):
        resnet.resolve("layer5")


def test_a_network_that_cannot_take_the_side_says_so():
    with pytest.raises(ModelError, match="doesn't run on an image of 8 x 8"):
        network_of("vgg", input_side=8)


def test_bfloat16_is_autocast_with_weights_rounded_once(pixels: Tensor):
    plain, rounded = network_of("resnet18"), network_of("resnet18", dtype=torch.bfloat16)
    exact = plain(pixels, ["layer2"])["layer2"]
    plain.dtype = torch.bfloat16
    expected, found = plain(pixels, ["layer2"])["layer2"], rounded(pixels, ["layer2"])["layer2"]
    assert found.dtype == torch.bfloat16
    assert rounded.module.conv1.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert torch.equal(found, expected)
    assert 0 < (found - exact).abs().max() < 0.05 * exact.abs().max()
