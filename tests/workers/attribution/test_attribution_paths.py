"""Maps averaged over baselines and noisy copies, and how far other draws would have moved them."""

from __future__ import annotations

import math

import pytest
import torch

from workers.attribution.average import standard_error
from workers.attribution.integrate import integrated_gradients
from workers.attribution.objective import Target
from workers.attribution.paths import explain
from workers.params import AttributionParams

FIXED = {"rule": {"middle": 4}}


def params(**keys):
    return AttributionParams.model_validate({**FIXED, **keys})


def explained(network, images, asked, seeds=(1, 2, 3), batch=8, **options):
    targets = [Target(4), Target(5), Target(6)][: len(images)]
    return explain(network, images, targets, seeds[: len(images)], asked, batch=batch, **options)


def test_the_mean_over_baselines_is_the_mean_of_their_maps(small_network, photographs):
    network, images = small_network(torch.float64), photographs(32).double()
    both = explained(network, images, params(baseline=["black", "white"]))
    single = [explained(network, images, params(baseline=name)) for name in ("black", "white")]
    for mean, black, white in zip(both, *single, strict=True):
        assert torch.allclose(mean.map, (black.map + white.map) / 2, atol=1e-14)
        assert mean.baseline_value == pytest.approx((black.baseline_value + white.baseline_value) / 2)
        assert mean.attribution_sum - (mean.objective_value - mean.baseline_value) == pytest.approx(
            mean.completeness_delta
        )
        assert (mean.paths, mean.evaluations) == (2, black.evaluations + white.evaluations)
        half = (black.map - white.map).abs().sum() / 2  # of two maps the standard error is half their difference
        assert mean.paths_error == pytest.approx(float(half / mean.map.abs().sum()))


def test_one_path_is_the_plain_attribution_and_has_no_spread(small_network, photographs):
    network, images = small_network(torch.float32), photographs(32)
    plain = integrated_gradients(network, images, [4, 5, 6], torch.zeros_like(images), params(), batch=8)
    for mean, one in zip(explained(network, images, params()), plain, strict=True):
        assert torch.equal(mean.map, one.map) and mean.paths_error is None and mean.map_error is None
        assert (mean.attribution_sum, mean.attribution_l1) == (one.attribution_sum, one.attribution_l1)


def test_noise_of_an_image_is_its_own(small_network, photographs):
    network, images = small_network(torch.float32), photographs(32)
    asked = params(baseline={"uniform": 2}, smooth={"copies": 2, "sigma": 0.1})
    together = explained(network, images, asked)
    assert [one.paths for one in together] == [4, 4, 4]
    for index in range(3):
        alone = explain(network, images[index : index + 1], [Target(4 + index)], [index + 1], asked, batch=8)[0]
        assert torch.equal(alone.map, together[index].map)
    other = explained(network, images, asked, seeds=(9, 2, 3))
    assert not torch.equal(other[0].map, together[0].map) and torch.equal(other[1].map, together[1].map)


def test_of_a_linear_function_smoothing_takes_the_mean_of_the_noise(formula_network):
    network = formula_network(lambda x, y, z: 2 * x + 3 * y - z)
    image = torch.full((1, 3, 1, 3), 0.5, dtype=torch.float64)
    one = explain(network, image, [Target(0)], [5], params(smooth={"copies": 400, "sigma": 0.1}), batch=64)[0]
    assert one.map[0].tolist() == pytest.approx([1, 1.5, -0.5], abs=0.05)
    assert one.completeness_delta == pytest.approx(0, abs=1e-12)
    assert one.paths_error is not None and 0.003 < one.paths_error < 0.03


def test_an_average_has_converged_if_each_path_has(small_network, photographs):
    images = photographs(32)
    asked = AttributionParams.model_validate({"baseline": ["black", "white"], "max_evaluations": 5})
    one = explained(small_network(torch.float32), images, asked)[0]
    assert (one.converged, one.stop_reason) == (False, "max_evaluations")
    assert one.map_error is not None and one.map_error > 0
    broken = images.clone()
    broken[0, 0, 0, 0] = math.nan
    assert explained(small_network(torch.float32), broken, asked)[0].stop_reason == "non_finite"


def test_the_standard_error_shrinks_with_the_draws():
    maps = torch.randn(400, 8, 8, generator=torch.Generator().manual_seed(0)).double() + 1
    few, many = standard_error(maps[:100]), standard_error(maps)
    assert few is not None and many is not None
    assert many == pytest.approx(1 / 20, rel=0.1) and few == pytest.approx(1 / 10, rel=0.1)
