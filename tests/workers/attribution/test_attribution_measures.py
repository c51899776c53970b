"""Deletion and insertion, the distance to other baselines, and flags."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workers.attribution.axioms.subject import Subject, as_double
from workers.attribution.flags import flags
from workers.attribution.measures import map_distance, measure, replacement_auc
from workers.attribution.objective import Target
from workers.attribution.paths import explain
from workers.attribution.randomisation import cascade, spearman, ssim
from workers.features import Network
from workers.params import AttributionParams


class LeftHalf(nn.Module):
    """Class 1 scores by the left half's brightness, class 0 by nothing."""

    def forward(self, pixels):
        return torch.stack([torch.zeros(len(pixels)), 8 * pixels[..., :4].mean((1, 2, 3)) - 4], 1)


@pytest.fixture(scope="module")
def left() -> Network:
    return Network(LeftHalf(), [0.0] * 3, [1.0] * 3, input_side=8)


def auc(network, maps, kind, batch=5):
    images = torch.ones(len(maps), 3, 8, 8)
    return replacement_auc(network, images, torch.zeros_like(images), maps, [Target(1)] * len(maps), kind, batch=batch)


def test_a_faithful_map_falls_at_once_and_rises_at_once(left):
    faithful = torch.zeros(8, 8)
    faithful[:, :4] = 1
    against = -faithful
    deleted, inserted = auc(left, [faithful, against], "deletion"), auc(left, [faithful, against], "insertion")
    assert deleted[0] < 0.3 < 0.7 < deleted[1]
    assert inserted[1] < 0.3 < 0.7 < inserted[0]


def test_the_area_of_a_known_curve(left):
    """The right half first: the probability stays sigmoid(4) for half of the way, then follows the sigmoid down."""
    right = torch.zeros(8, 8)
    right[:, 4:] = 1
    steps = torch.linspace(0, 1, 33, dtype=torch.float64)
    curve = torch.sigmoid(8 * (1 - (2 * steps - 1).clamp_min(0)) - 4)
    assert auc(left, [right], "deletion")[0] == pytest.approx(float(torch.trapezoid(curve, dx=1 / 32)), abs=1e-6)


def test_measures_are_an_images_own(small_network, photographs):
    network, images = small_network(torch.float32), photographs(32)
    asked = AttributionParams.model_validate(
        {"rule": {"middle": 3}, "measures": ["deletion", "insertion", "baseline"], "baseline": "blur"}
    )

    def measured(rows):
        options = {"seeds": rows, "given": (), "batch": 4, "on_step": lambda: None}
        targets = [Target(row + 3) for row in rows]
        found = explain(network, images[rows], targets, params=asked, **options)
        return measure(network, images[rows], targets, found, asked, **options)

    together = measured([0, 1, 2])
    assert [measured([row])[0] for row in range(3)] == together
    assert set(together[0]) == {"deletion_auc", "insertion_auc", "baseline_distance"}
    assert all(0 < value < 1 for row in together for value in row.values())


def test_distances_of_maps():
    one = torch.tensor([[1.0, -2.0]])
    assert [map_distance(one, other) for other in (one, -one, torch.zeros(1, 2))] == [0, 1, 1]
    assert map_distance(torch.zeros(1, 2), torch.zeros(1, 2)) == 0


def row(**changes):
    columns = {"objective_value": 9.0, "baseline_value": 1.0, "converged": True, "correct": None, "attribution_l1": 5.0}
    return flags(columns | changes)


def test_flags():
    assert row() == []
    assert row(converged=False) == ["not_converged"]
    assert row(converged=None, correct=False) == ["wrong_prediction"]
    assert row(baseline_value=9.5) == ["against_class"]
    assert row(baseline_value=8.95) == ["small_difference"]
    assert row(baseline_value=9.0, attribution_l1=0.0) == ["against_class", "small_difference", "zero_map"]
    assert row(baseline_value=None) == []


def test_ranks_and_structure():
    one = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    assert spearman(one, one**3) == pytest.approx(1) and spearman(one, -one) == pytest.approx(-1)
    assert ssim(one, one) == pytest.approx(1) and ssim(one, 1 - one) < 0.2


def test_a_network_that_loses_its_weights_loses_its_maps(small_network, photographs):
    network, image = small_network(torch.float32), photographs(32)[1:2]
    params = AttributionParams.model_validate({})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    subject = Subject(network, as_double(network), image, torch.zeros_like(image), Target(3), params, 8)
    stages = list(cascade([subject]))
    assert [stage.layers for stage in stages] == [1, 2, 3, 4] and stages[0].down_to == "8"
    assert abs(stages[-1].spearman) < 0.5 and stages[-1].ssim < 0.9
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
