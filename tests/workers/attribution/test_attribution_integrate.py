from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from workers.attribution.integrate import integrated_gradients
from workers.attribution.path import Attribution
from workers.attribution.predict import predict
from workers.attribution.rules import graded_trapezoid, quadrature
from workers.errors import ModelError
from workers.features import LOGITS, Network
from workers.params import AttributionParams

ADAPTIVE = AttributionParams.model_validate({})
RULES = ["left", "right", "middle", "trapezoid", "gauss_legendre"]


def adaptive(completeness: float = 0.05, error: float = 0.05, **others: int) -> AttributionParams:
    return AttributionParams.model_validate({"tolerance": {"completeness": completeness, "map": error}, **others})


def fixed(rule: str, n: int, **others: str) -> AttributionParams:
    return AttributionParams.model_validate({"rule": {rule: n}, **others})


def point(*values: float) -> Tensor:
    """One image of a single row whose pixels are grey values, so that a map is three times the red channel's."""
    return torch.tensor(values, dtype=torch.float64).repeat(1, 3, 1, 1)


def attribute_point(network: Network, x: Tensor, baseline: Tensor, params: AttributionParams) -> Attribution:
    return integrated_gradients(network, x, [0], baseline, params, batch=4)[0]


def assert_consistent(result: Attribution) -> None:
    gap = result.attribution_sum - (result.objective_value - result.baseline_value)
    assert result.completeness_delta == pytest.approx(gap, abs=1e-12)
    assert result.attribution_sum == pytest.approx(float(result.map.double().sum()), abs=1e-4)
    assert result.attribution_l1 == pytest.approx(float(result.map.double().abs().sum()), rel=1e-5)


# Closed forms


@pytest.mark.parametrize("rule", RULES)
def test_a_linear_network_is_integrated_exactly_by_every_rule(rule, formula_network):
    network = formula_network(lambda x, y, z: 2 * x - 3 * y + 0.5 * z + 7)
    result = attribute_point(network, point(0.9, 0.4, 0.2), point(0.1, 0.1, 0.8), fixed(rule, 5))
    assert result.map.flatten().tolist() == pytest.approx([1.6, -0.9, -0.3], abs=1e-14)
    assert (result.completeness_delta, result.converged) == (pytest.approx(0, abs=1e-14), None)
    assert math.isnan(result.map_error)
    assert result.stop_reason == "fixed_rule"
    assert_consistent(result)


def test_the_adaptive_rule_needs_two_levels_for_a_linear_network(formula_network):
    result = attribute_point(formula_network(lambda x, y, z: 2 * x - y), point(1, 1, 1), point(0, 0, 0), ADAPTIVE)
    assert result.map.flatten().tolist() == pytest.approx([2, -1, 0], abs=1e-14)
    assert (result.evaluations, result.converged, result.stop_reason) == (13, True, "tolerance")


def test_the_papers_kind_of_polynomial(formula_network):
    network = formula_network(lambda x, y, z: 5 * x + y**2 + z.sin())
    x, baseline = point(1, 2, 3), point(0.5, 1, 1)
    exact = [2.5, 3, math.sin(3) - math.sin(1)]
    gauss = attribute_point(network, x, baseline, fixed("gauss_legendre", 12))
    doubled = attribute_point(network, x, baseline, adaptive(1e-6, 1e-6))
    assert gauss.map.flatten().tolist() == pytest.approx(exact, abs=1e-13)
    errors = (doubled.map.flatten() - torch.tensor(exact)).abs().sum()
    assert errors <= doubled.map_error * doubled.attribution_l1 <= 1e-6 * doubled.attribution_l1
    assert doubled.objective_value == pytest.approx(9 + math.sin(3), abs=1e-14)
    assert doubled.baseline_value == pytest.approx(3.5 + math.sin(1), abs=1e-14)


def test_a_kink_splits_the_credit_at_its_place_on_the_path(formula_network):
    network = formula_network(lambda x, y, z: (x - y - 1).relu())
    result = attribute_point(network, point(3, 1, 0), point(0, 0, 0), adaptive(1e-3, 1e-3, max_evaluations=4097))
    assert result.map.flatten().tolist() == pytest.approx([1.5, -0.5, 0], abs=2e-3)
    assert result.converged


# Stopping


def test_closed_completeness_alone_stops_nothing(formula_network):
    """F(x) = F(x') and the two pixels' errors cancel, so the delta is zero at every level, however wrong the map."""
    network = formula_network(lambda x, y, z: (60 * x).sin() - (60 * y).sin())
    result = attribute_point(network, point(1, 1, 0), point(0, 0, 0), ADAPTIVE)
    assert result.completeness_delta == pytest.approx(0, abs=1e-12)
    assert result.converged
    assert result.map.flatten().tolist() == pytest.approx([math.sin(60), -math.sin(60), 0], rel=0.06)
    assert result.evaluations > 33


def test_a_map_at_rest_alone_stops_nothing(formula_network):
    """The first levels' nodes all miss the step, so the map stays zero; only the delta knows that it is there."""
    network = formula_network(lambda x, y, z: (400 * (x - 0.53)).sigmoid())
    result = attribute_point(network, point(1, 0, 0), point(0, 0, 0), ADAPTIVE)
    assert result.converged
    assert result.map[0, 0] == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize(
    ("limit", "spent"), [(3, 3), (4, 3), (5, 5), (16, 13), (17, 13), (25, 25), (48, 25), (100, 97)]
)
def test_the_limit_of_evaluations_is_kept_and_said(limit, spent, small_network, photographs):
    network, images = small_network(torch.float64), photographs(32).double()
    params = adaptive(1e-9, 1e-9, max_evaluations=limit)
    for result in integrated_gradients(network, images, [1, 2, 3], torch.zeros_like(images), params, batch=8):
        assert (result.evaluations, result.converged, result.stop_reason) == (spent, False, "max_evaluations")
        assert result.map_error > 1e-9
        assert_consistent(result)


def test_no_gradient_is_taken_twice(small_network, photographs):
    network, image = small_network(torch.float64), photographs(32)[:1].double()
    seen: list[float] = []
    network.module.register_forward_pre_hook(lambda _module, inputs: seen.append(float(inputs[0].detach().sum())))
    steps: list[int] = []
    params = adaptive(0.01, 0.01, max_evaluations=129)
    result = integrated_gradients(
        network, image, [4], torch.zeros_like(image), params, batch=1, on_step=lambda: steps.append(1)
    )[0]
    assert result.evaluations > 33
    assert len(steps) == len(seen) == len(set(seen)) == result.evaluations


def test_nested_levels_add_up_to_the_whole_rule(small_network, photographs):
    network, images = small_network(torch.float64), photographs(32).double()
    params = adaptive(1e-9, 1e-9, max_evaluations=49)
    nested = integrated_gradients(network, images, [4, 5, 6], torch.ones_like(images), params, batch=8)
    nodes, weights = map(torch.tensor, graded_trapezoid(48))
    for result, image, target in zip(nested, images, [4, 5, 6], strict=True):
        points = torch.lerp(torch.ones(49, *image.shape, dtype=torch.float64), image, nodes.view(-1, 1, 1, 1))
        scores = network(points.requires_grad_(), [LOGITS])[LOGITS][:, target]
        (gradients,) = torch.autograd.grad(scores.sum(), points)
        exact = ((weights.view(-1, 1, 1, 1) * gradients).sum(0) * (image - 1)).sum(0)
        assert result.evaluations == 49
        assert (result.map - exact).abs().sum() <= 1e-12 * result.attribution_l1


def test_converged_means_that_both_tolerances_truly_hold(efficientnet, photographs):
    network, images = efficientnet(torch.float32), photographs(64)
    arguments = network, images, predict(network, images, batch=16).argmax(1), torch.zeros_like(images)
    reference = integrated_gradients(*arguments, fixed("trapezoid", 256), batch=16)
    for result, exact in zip(integrated_gradients(*arguments, adaptive(0.2, 0.2), batch=16), reference, strict=True):
        assert result.converged
        assert 13 <= result.evaluations < 257
        assert abs(result.completeness_delta) <= 0.2 * abs(result.objective_value - result.baseline_value)
        error = float((result.map - exact.map).abs().sum()) / exact.attribution_l1
        assert error <= 1.05 * result.map_error and result.map_error <= 0.2  # the reference is off by 0.5 % itself


def test_an_image_equal_to_its_baseline_has_a_zero_map(small_network, photographs):
    images = photographs(32)
    result = integrated_gradients(small_network(torch.float32), images, [0, 1, 2], images, ADAPTIVE, batch=8)[0]
    assert (result.evaluations, result.converged, result.stop_reason) == (13, True, "zero_gradient")
    assert (result.map == 0).all()


# Independence of companions


def test_batch_and_alone_agree(small_network, photographs):
    network, images = small_network(torch.float64), photographs(32).double()
    params = adaptive(0.01, 0.01, max_evaluations=33)
    together = integrated_gradients(network, images, [4, 5, 6], torch.zeros_like(images), params, batch=7)
    for index, result in enumerate(together):
        image = images[index : index + 1]
        alone = integrated_gradients(network, image, [4 + index], torch.zeros_like(image), params, batch=1)[0]
        assert (alone.evaluations, alone.stop_reason) == (result.evaluations, result.stop_reason)
        assert (alone.map - result.map).abs().sum() <= 1e-10 * alone.attribution_l1


def test_at_one_batch_shape_company_and_order_change_no_bit(efficientnet, photographs):
    network, images = efficientnet(torch.float32), photographs(64)
    params = adaptive(0.3, 0.3, max_evaluations=33)

    def attribute(order: list[int]) -> dict[int, Attribution]:
        chosen = images[order]
        targets = [100 + i for i in order]
        results = integrated_gradients(network, chosen, targets, torch.zeros_like(chosen), params, batch=8)
        return dict(zip(order, results, strict=True))

    together, turned = attribute([0, 1, 2]), attribute([2, 0, 1])
    alone = attribute([1])
    for index, other in [*turned.items(), *alone.items()]:
        assert torch.equal(together[index].map, other.map)
        assert scalars(together[index]) == scalars(other)


def scalars(result: Attribution) -> list[str]:
    return [repr(value) for name, value in vars(result).items() if name != "map"]


def test_every_evaluation_has_the_full_batch(small_network, photographs):
    network, images = small_network(torch.float32), photographs(32)
    rows: list[int] = []
    network.module.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    integrated_gradients(network, images, [0, 1, 2], torch.zeros_like(images), fixed("middle", 3), batch=4)
    assert rows == [4, 4, 4, 4]  # three images with three nodes and two ends: 15 gradients and one copy


def test_an_image_that_is_not_finite_spoils_no_other(small_network, photographs):
    network, images = small_network(torch.float32), photographs(32)
    broken = images.clone()
    broken[1, 0, 5, 5] = math.nan
    arguments = [0, 1, 2], torch.zeros_like(images)
    for params in (adaptive(0.2, 0.2), fixed("trapezoid", 6)):
        sound = integrated_gradients(network, images, *arguments, params, batch=8)
        results = integrated_gradients(network, broken, *arguments, params, batch=8)
        assert (results[1].stop_reason, results[1].converged) == ("non_finite", False)
        assert results[1].evaluations <= 9
        for index in (0, 2):
            assert torch.equal(results[index].map, sound[index].map)
            assert scalars(results[index]) == scalars(sound[index])


def test_an_infinite_gradient_at_an_unused_end_does_no_harm(formula_network):
    network = formula_network(lambda x, y, z: x.sqrt())
    middle = attribute_point(network, point(1, 1, 1), point(0, 0, 0), fixed("middle", 400))
    left = attribute_point(network, point(1, 1, 1), point(0, 0, 0), fixed("left", 400))
    assert middle.map[0, 0] == pytest.approx(1, rel=0.02)
    assert (left.stop_reason, left.converged) == ("non_finite", False)


# Objective, ends and refusals


@pytest.mark.parametrize("objective", ["logit", "softmax"])
@pytest.mark.parametrize("rule", RULES)
def test_the_objective_is_recorded_at_both_ends(objective, rule, small_network, photographs):
    network, images = small_network(torch.float64), photographs(32).double()
    baselines = torch.full_like(images, 0.3)
    params = fixed(rule, 6, objective=objective)
    results = integrated_gradients(network, images, torch.tensor([4, 5, 6]), baselines, params, batch=5)
    ends = [network(pixels, [LOGITS])[LOGITS] for pixels in (images, baselines)]
    scores = [logits.softmax(1) if objective == "softmax" else logits for logits in ends]
    nodes = quadrature(params.rule) if params.rule != "adaptive" else None
    assert nodes is not None
    for index, result in enumerate(results):
        assert result.objective_value == pytest.approx(float(scores[0][index, 4 + index]), abs=1e-12)
        assert result.baseline_value == pytest.approx(float(scores[1][index, 4 + index]), abs=1e-12)
        assert result.evaluations == len(nodes.with_ends().nodes)


def test_maps_come_in_the_images_precision_and_frame(small_network, photographs):
    images = photographs(48)[..., :32, :]
    for dtype in (torch.float32, torch.float64):
        pixels = images.to(dtype)
        results = integrated_gradients(
            small_network(dtype), pixels, [0, 0, 0], torch.zeros_like(pixels), fixed("middle", 2), batch=2
        )
        assert {(result.map.dtype, result.map.shape) for result in results} == {(dtype, (32, 48))}


def test_reduced_precision_is_refused(photographs):
    network = Network(torch.nn.Conv2d(3, 4, 1), [0.0] * 3, [1.0] * 3, dtype=torch.bfloat16)
    with pytest.raises(ModelError, match="in float32, not"):
        integrated_gradients(network, photographs(32), [0, 0, 0], photographs(32), ADAPTIVE, batch=4)


def test_a_class_that_the_network_lacks_is_refused(small_network, photographs):
    images = photographs(32)
    with pytest.raises(ModelError, match="no class 10: the network's 10 classes"):
        integrated_gradients(small_network(torch.float32), images, [0, 10, 0], images, ADAPTIVE, batch=4)
