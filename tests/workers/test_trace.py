"""Traces cost no computing and say what a run would do."""

from __future__ import annotations

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn

from workers.trace import has_fixed_side, smallest_sides, trace


def empty(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return zoo.get_model(name, weights=None, **options).eval()


def test_a_shared_module_is_counted_and_placed_at_its_last_call():
    found = trace(empty("resnet18"), 224)
    assert found.calls["layer1.0.relu"] == 2
    order = list(found.last)
    assert order.index("layer1.0.bn2") < order.index("layer1.0.relu") < order.index("layer1.0")
    assert "layer1.0.bn2" in found.overwritten
    assert "layer1.0" not in found.overwritten


def test_a_part_ends_with_its_path_and_drops_what_is_called_again():
    part = trace(empty("resnet18"), 224).until("layer1.0.bn2")
    assert part.events[-1] == "layer1.0.bn2"
    assert "layer1.0.relu" not in part.calls
    assert part.output is None


@pytest.mark.parametrize(
    "name, side, layer, smallest",
    [("vgg11", 224, "features.1", 1), ("vgg11", 224, "features.10", 8), ("squeezenet1_1", 224, "features.0", 3)],
)
def test_the_smallest_side_is_where_the_real_network_stops_failing(name: str, side: int, layer: str, smallest: int):
    module = empty(name)
    whole = trace(module, side)
    assert whole.device.type == "meta"
    assert smallest_sides(module, whole, side)[layer] == smallest
    trunk = module.get_submodule("features")[: int(layer.split(".")[1]) + 1].to_empty(device="cpu")  # type: ignore[index]
    trunk(torch.zeros(1, 3, smallest, smallest))
    if smallest > 1:
        with pytest.raises(RuntimeError):
            trunk(torch.zeros(1, 3, smallest - 1, smallest - 1))


def test_a_vision_transformer_takes_one_side_only():
    vit, resnet = empty("vit_b_32"), empty("resnet18")
    assert has_fixed_side(vit, trace(vit, 224), 224)
    assert not has_fixed_side(resnet, trace(resnet, 224), 224)


def test_code_that_needs_numbers_is_run_on_zeros():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y if float(y.sum()) > -1e9 else x

    module = Counting()
    found = trace(module, 16)
    assert found.device.type == "cpu"
    assert found.output == (1, 2, 14, 14)
    assert smallest_sides(module, found, 16) == {"conv": 3, "": 3}
