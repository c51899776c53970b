"""Captum's methods in our batches: their maps, what they leave out, and the networks that they don't cover."""

from __future__ import annotations

import sys

import pytest
import torch
from captum.attr import DeepLift, InputXGradient, LayerGradCam
from torch import nn

from workers.attribution.captum import prepared
from workers.attribution.methods import explain_by, method_name
from workers.attribution.objective import Target
from workers.errors import ModelError
from workers.features import LOGITS, Network
from workers.params import AttributionParams

TARGETS = [Target(4), Target(5), Target(6, 1)]
METHODS = [
    "saliency",
    "input_x_gradient",
    "guided_backprop",
    "deconvolution",
    "deep_lift",
    {"occlusion": 8, "stride": 8},
    {"grad_cam": "2"},
]


def made(network, images, method, targets=TARGETS, seeds=(1, 2, 3), batch=2, **keys):
    params = AttributionParams.model_validate({"method": method, **keys})
    taken = prepared(network, method_name(params.method))
    return explain_by(params.method, taken, network, images, targets, seeds, params, batch=batch)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_map_is_the_images_own_whatever_its_company(method, small_network, photographs):
    network, images = small_network(torch.float32), photographs(32)
    together = made(network, images, method)
    for index, one in enumerate(together):
        alone = made(network, images[index : index + 1], method, [TARGETS[index]], (index + 1,))[0]
        assert torch.equal(alone.map, one.map) and one.map.shape == (32, 32)
        assert one.map.abs().sum() > 0 and one.stop_reason == "single_pass"
        assert one.converged is None and one.map_error is None
    with_baseline = method_name(AttributionParams.model_validate({"method": method}).method) in (
        "deep_lift",
        "occlusion",
    )
    assert all((one.baseline_value is not None) == with_baseline for one in together)


def test_maps_are_captums(small_network, photographs):
    network, image = small_network(torch.float32), photographs(32)[:1]

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, pixels):
            return self.network(pixels, [LOGITS])[LOGITS]

    logits = Logits()
    theirs = {
        "input_x_gradient": InputXGradient(logits).attribute(image.clone().requires_grad_(), target=4).sum(1),
        "deep_lift": DeepLift(logits).attribute(image, torch.zeros_like(image), target=4).sum(1),
    }
    for method, expected in theirs.items():
        ours = made(network, image, method, TARGETS[:1], (1,), batch=1)[0].map
        assert torch.allclose(ours, expected[0].double(), atol=1e-4 * float(expected.abs().max()))
    small = LayerGradCam(logits, network.module[2]).attribute(image, target=4)
    ours = made(network, image, {"grad_cam": "2"}, TARGETS[:1], (1,))[0].map
    assert isinstance(small, torch.Tensor) and small.shape[-2:] == (8, 8) and ours.shape == (32, 32)


def test_deeplift_adds_up_on_relu6_too(efficientnet, photographs):
    """Captum's would take ReLU6's plain gradient, without a word."""
    one = made(efficientnet(torch.float32), photographs(32)[:1], "deep_lift", [Target(285)], (1,), batch=1)[0]
    assert one.baseline_value is not None and one.completeness_delta is not None
    change = one.objective_value - one.baseline_value
    assert one.completeness_delta == pytest.approx(one.attribution_sum - change)
    assert abs(one.completeness_delta) <= 1e-4 * abs(change)


def test_smoothing_averages_noisy_copies(small_network, photographs):
    one = made(small_network(torch.float32), photographs(32), "saliency", smooth={"copies": 4, "sigma": 0.2})[0]
    assert one.paths == 4 and one.paths_error and one.paths_error > 0 and (one.map >= 0).all()


def network_of(*layers: nn.Module) -> Network:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8))
    return Network(module, [0.5] * 3, [0.5] * 3, input_side=16)


@pytest.mark.parametrize(
    ("method", "layers", "sentence"),
    [
        ("guided_backprop", (nn.ReLU6(),), "has no rule for ReLU6 layers"),
        ("deconvolution", (), "this network has none"),
        ("deep_lift", (nn.GELU(),), "has no rule for GELU layers"),
        ("guided_backprop", (shared := nn.ReLU(), nn.Conv2d(4, 4, 3), shared), "used twice"),
    ],
)
def test_a_network_that_captum_has_no_rule_for_is_refused(method, layers, sentence):
    with pytest.raises(ModelError, match=sentence):
        prepared(network_of(*layers), method)


def test_without_captum_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ModelError, match=r"pip install 'pixgrad\[captum\]'"):
        prepared(network_of(nn.ReLU()), "saliency")
