"""The axioms on closed forms and on a small network; and that each check fails where its axiom is broken."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from workers.attribution.axioms import completeness, invariance, sensitivity, symmetry
from workers.attribution.axioms.audit import check_image
from workers.attribution.axioms.deeplift import deeplift, with_rescale_rule
from workers.attribution.axioms.finding import Finding, over_images
from workers.attribution.axioms.rewriting import absolute, deeper
from workers.attribution.axioms.subject import Subject, as_double, distance, function_of, integrate
from workers.attribution.objective import Target
from workers.attribution.rules import trapezoid
from workers.features import LOGITS, Network
from workers.folding import folded
from workers.params import AttributionParams

CHECKS = (completeness.check, sensitivity.check, invariance.check, symmetry.check, symmetry.check_linearity)


class Normed(nn.Module):
    """Convolutions with BatchNorm and ReLU, ReLU6 among them, and a classifier of five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        )
        self.classify = nn.Linear(8 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.body(x).flatten(1))


@pytest.fixture(scope="module")
def normed() -> Network:
    module = Normed()
    generator = torch.Generator().manual_seed(3)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.4, generator=generator)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
            layer.running_var.abs_().add_(0.5)
    return Network(module, [0.4] * 3, [0.3] * 3, input_side=16)


@pytest.fixture(scope="module")
def subject(normed: Network, photographs) -> Subject:
    image = photographs(16)[:1]
    params = AttributionParams.model_validate({"tolerance": {"completeness": 0.05, "map": 0.02}})
    return Subject(normed, as_double(normed), image, torch.zeros_like(image), Target(2), params, batch=16)


def plane(*values: float) -> torch.Tensor:
    """An image of one row of pixels, red only."""
    image = torch.zeros(1, 3, 1, len(values), dtype=torch.float64)
    image[0, 0, 0] = torch.tensor(values)
    return image


def first(image: torch.Tensor) -> torch.Tensor:
    return image[:, 0, 0, 0]


def second(image: torch.Tensor) -> torch.Tensor:
    return image[:, 0, 0, 1]


# On a network


def test_the_axioms_hold_and_every_control_fails(subject):
    found = check_image(subject)
    assert [(f.axiom, f.what, f.figure) for f in found if not f.as_expected] == []
    assert all(f.figure is not None for f in found), "all checks can be made here"
    controls = {f.axiom for f in found if f.control}
    assert controls == {"completeness", "sensitivity", "implementation invariance", "numerical floor", "symmetry"}
    assert len(found) == 21


def test_controls_fail_for_their_own_reason(subject):
    notes = {f.what: f for check in CHECKS for f in check(subject) if f.control}
    wrong = next(f for what, f in notes.items() if "sum to 2" in what)
    assert wrong.figure == pytest.approx(1, abs=0.1)
    path = next(f for what, f in notes.items() if "random monotone path" in what)
    assert path.figure is not None and path.figure > 0.01
    assert float(path.note.split("sums to ")[1].split()[0]) == pytest.approx(1, abs=0.1), "complete, but not symmetric"
    plain = next(f for what, f in notes.items() if "plain gradients" in what)
    assert plain.figure == 1 and "the gradient is 0 everywhere" in plain.note


def test_a_network_written_otherwise_is_the_same_function(normed, subject):
    exact = subject.exact
    expected = exact(subject.x, [LOGITS])[LOGITS]
    for (network, layers), count in zip(
        (deeper(exact), absolute(exact), folded(exact, subject.x)), (2, 2, 2), strict=True
    ):
        assert layers == count
        assert torch.allclose(network(subject.x, [LOGITS])[LOGITS], expected, atol=1e-12)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded(exact, subject.x)[0].modules())
    assert torch.equal(exact(subject.x, [LOGITS])[LOGITS], expected), "the original is as it was"


def test_another_function_fails_invariance(subject):
    other = deepcopy(subject.exact)
    other.module.classify.weight.mul_(1.01)
    own = subject.gradients(subject.exactly())
    found = invariance._compare(subject, own, "other weights", other, None)
    assert found.verdict == "fail" and "F(x) is" in found.note


def test_a_network_without_relus_says_that_some_checks_cant_be_made(subject):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    network = Network(module, [0.5] * 3, [0.5] * 3, input_side=16)
    smooth = Subject(network, as_double(network), subject.image, subject.baseline, Target(0), subject.params, 16)
    found = invariance.check(smooth)
    assert {f.what: f.note for f in found if f.verdict == "not applicable"} == {
        "a copying layer and one more ReLU behind each of 0 ReLUs": "the network has no such layers",
        "0 ReLUs written with |x|": "the network has no such layers",
        "0 BatchNorms folded into their convolutions": "the network has no such layers",
        "DeepLift, ReLUs written with |x|": "the network has no ReLUs",
    }
    assert all(f.as_expected for f in found if not f.control)


# Closed forms, in fp64


def test_the_papers_two_networks_get_one_map_from_integrated_gradients():
    """Figure 7 of the paper: equal functions; at (3, 1) both get 1.5 and -0.5."""

    def one(p):
        return torch.relu(torch.relu(first(p)) - 1 - torch.relu(second(p)))

    def other(p):
        return torch.relu(torch.relu(first(p) - 1) - torch.relu(second(p)))

    for function in (one, other):
        found = integrate(function, plane(3, 1), plane(0, 0), 64, rule={"trapezoid": 600})
        assert found.map[0].tolist() == pytest.approx([1.5, -0.5], abs=0.01)


class PapersOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.c(self.a(first(x)) - 1 - self.b(second(x)))[:, None]


class PapersOther(PapersOne):
    def forward(self, x):
        return self.c(self.a(first(x) - 1) - self.b(second(x)))[:, None]


def test_the_papers_two_networks_get_two_maps_from_deeplift():
    """The paper's table beside figure 7: 1.5 and -0.5 for the one, 2 and -1 for the other."""
    maps = []
    for module in (PapersOne(), PapersOther()):
        network = as_double(Network(module, [0.0] * 3, [1.0] * 3, input_side=4))
        function = function_of(with_rescale_rule(network), Target(0), "logit")
        maps.append(deeplift(function, plane(3, 1), plane(0, 0))[0, 0].tolist())
    assert maps[0] == pytest.approx([1.5, -0.5]) and maps[1] == pytest.approx([2, -1])


def test_deeplift_sums_to_the_change_of_a_relu_network(subject):
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(864, 2)
    )
    network = as_double(Network(module, [0.5] * 3, [0.5] * 3, input_side=16))
    function = function_of(network, Target(1), "logit")
    change = float(function(subject.x) - function(subject.x0))
    found = deeplift(function_of(with_rescale_rule(network), Target(1), "logit"), subject.x, subject.x0)
    assert float(found.sum()) == pytest.approx(change, rel=1e-9)


def test_the_papers_saturated_function_has_no_gradient_and_yet_an_attribution():
    """Section 2.1: f(x) = 1 - ReLU(1 - x), from 0 to 2: the gradient at 2 is 0, integrated gradients are 1."""

    def saturated(p):
        return 1 - torch.relu(1 - first(p))

    x, x0 = plane(2), plane(0)
    assert float(sensitivity._gradient(saturated, x).abs().max()) == 0
    assert integrate(saturated, x, x0, 64, rule={"trapezoid": 256}).map[0, 0] == pytest.approx(1, abs=0.01)


def test_a_path_of_any_pace_keeps_the_sum_and_not_the_shares():
    def product(p):
        return first(p) * second(p)

    nodes, weights = trapezoid(2000)
    straight = completeness.path_integral(product, plane(1, 1), plane(0, 0), nodes, weights)
    bent = completeness.path_integral(product, plane(1, 1), plane(0, 0), nodes, weights, torch.tensor([[1.0, 3.0]]))
    assert straight[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert bent[0].tolist() == pytest.approx([0.25, 0.75], abs=1e-3)


def test_weights_that_dont_sum_to_one_scale_the_sum_of_a_linear_function():
    """Captum's trapezoid gives n nodes the weights of n intervals: (n - 1) / n of the sum."""
    nodes, weights = trapezoid(9)
    found = completeness.path_integral(first, plane(5), plane(1), nodes, weights * 0.9)
    assert float(found.sum()) == pytest.approx(0.9 * 4)


# Findings


def finding(figure, control=False, note=""):
    return Finding("symmetry", "what", figure, 0.1, control, note)


def test_a_finding_over_images_is_the_worst_and_a_controls_the_nearest_to_a_pass():
    assert over_images([[finding(0.01)], [finding(0.2, note="b")], [finding(0.05, note="b")]]) == [
        finding(0.2, note="b")
    ]
    [control] = over_images([[finding(0.5, True)], [finding(0.05, True)]])
    assert (control.verdict, control.as_expected) == ("pass", False)
    [broken] = over_images([[finding(0.01)], [finding(math.nan)]])
    assert broken.verdict == "fail" and broken.as_dict()["figure"] is None
    [absent] = over_images([[finding(None)], [finding(None)]])
    assert absent.verdict == "not applicable" and absent.as_expected


def test_maps_that_are_zero_are_no_distance_apart():
    assert distance(torch.zeros(3), torch.zeros(3)) == 0
    assert distance(torch.ones(3), torch.zeros(3)) == math.inf
