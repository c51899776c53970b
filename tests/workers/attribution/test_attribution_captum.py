"""Parity with Captum, an independent implementation, at equal fixed rules on a real network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from workers.attribution.integrate import integrated_gradients
from workers.features import LOGITS, Network
from workers.params import AttributionParams

NODES = 7  # its weights 1/7 are no dyadic fractions, which would hide rounding
CAPTUMS_NAMES = {
    "left": "riemann_left",
    "right": "riemann_right",
    "middle": "riemann_middle",
    "trapezoid": "riemann_trapezoid",
    "gauss_legendre": "gausslegendre",
}
ESPRESSO = 967


@contextmanager
def computed_in(dtype: torch.dtype) -> Iterator[None]:
    """Captum makes its nodes in the default dtype and its weights by `.float()`; this has it make both in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", lambda tensor: tensor.to(dtype))
            yield
    finally:
        torch.set_default_dtype(before)


def captum_map(network: Network, image: Tensor, baseline: Tensor, rule: str, objective: str) -> Tensor:
    """Captum's map, summed over colour.

    Its trapezoid gives n nodes the weights of n intervals, so they sum to (n - 1)/n; scaled back here, and only here.
    """

    def score(pixels: Tensor) -> Tensor:
        logits = network(pixels, [LOGITS])[LOGITS]
        return logits.softmax(1) if objective == "softmax" else logits

    with computed_in(image.dtype):
        colours = IntegratedGradients(score).attribute(
            image,
            baselines=baseline,
            target=ESPRESSO,
            n_steps=NODES,
            method=CAPTUMS_NAMES[rule],
            internal_batch_size=NODES,
        )
    weights_sum = (NODES - 1) / NODES if rule == "trapezoid" else 1.0
    return colours.sum(1)[0].detach() / weights_sum


def deviation(network: Network, image: Tensor, rule: str, objective: str) -> float:
    """The relative L1 distance of our map from Captum's."""
    baseline = torch.full_like(image, 0.2)
    intervals_or_nodes = NODES - 1 if rule == "trapezoid" else NODES
    params = AttributionParams.model_validate({"rule": {rule: intervals_or_nodes}, "objective": objective})
    ours = integrated_gradients(network, image, [ESPRESSO], baseline, params, batch=NODES + 2)[0].map
    theirs = captum_map(network, image, baseline, rule, objective)
    return float((ours - theirs).abs().sum() / theirs.abs().sum())


@pytest.mark.parametrize("rule", CAPTUMS_NAMES)
def test_in_float64_the_maps_are_captums(rule, efficientnet, photographs):
    assert deviation(efficientnet(torch.float64), photographs(32)[2:].double(), rule, "logit") <= 1e-10


@pytest.mark.parametrize(("rule", "objective"), [*((rule, "logit") for rule in CAPTUMS_NAMES), ("middle", "softmax")])
def test_in_float32_the_maps_are_captums_to_rounding(rule, objective, efficientnet, photographs):
    assert deviation(efficientnet(torch.float32), photographs(160)[2:], rule, objective) <= 2e-3
