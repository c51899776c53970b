"""Symmetry and linearity: what plays the same part gets the same, and a sum of functions gets the sum of maps."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.attribution.axioms.completeness import path_integral
from workers.attribution.axioms.finding import Finding
from workers.attribution.axioms.subject import FLOOR, Function, Subject, distance
from workers.attribution.objective import Target
from workers.attribution.rules import middle
from workers.features import LOGITS

CONTROL_NODES = 32


def check(subject: Subject) -> list[Finding]:
    """G(x) = F(x) + F(flip x) doesn't know left from right, so neither may its map; fp64, with a control."""
    function = subject.exactly()

    def both(pixels: Tensor) -> Tensor:
        return function(pixels) + function(pixels.flip(-1))

    turned = subject.gradients(both, subject.x.flip(-1), subject.x0.flip(-1))
    of_flipped = distance(turned.map, subject.gradients(both).map.flip(-1))
    x, x0 = (_symmetric(point) for point in (subject.x, subject.x0))
    found = subject.gradients(both, x, x0).map
    mirrored = distance(found.flip(-1), found)
    return [
        Finding("symmetry", "G(x) = F(x) + F(flip x): the map of flip x is the flipped map", of_flipped, FLOOR),
        Finding("symmetry", "G, a symmetric image: mirrored pixels get the same", mirrored, FLOOR),
        _random_path(both, x, x0),
    ]


def check_linearity(subject: Subject) -> list[Finding]:
    """The map of 2 F - 3 H is 2 and -3 times the maps of F and H, which is another class's objective; fp64."""
    function, other = subject.exactly(), subject.exactly(target=_runner_up(subject))
    combined = subject.gradients(lambda pixels: 2 * function(pixels) - 3 * other(pixels)).map
    expected = 2 * subject.gradients(function).map - 3 * subject.gradients(other).map
    what = "2 F - 3 H, H the next most probable class: the maps add up likewise"
    return [Finding("linearity", what, distance(combined, expected), FLOOR)]


def _symmetric(point: Tensor) -> Tensor:
    """The mean of an image and its mirror image."""
    return (point + point.flip(-1)) / 2


def _random_path(both: Function, x: Tensor, x0: Tensor) -> Finding:
    """Each pixel goes from the baseline to the image at a pace of its own, never back."""
    generator = torch.Generator().manual_seed(0)
    powers = 1 + 2 * torch.rand(x.shape[-2:], generator=generator, dtype=torch.float64).to(x.device)
    found = path_integral(both, x, x0, *middle(CONTROL_NODES), powers)
    with torch.no_grad():
        change = float(both(x) - both(x0))
    note = f"the path is complete: its map sums to {float(found.sum()) / change:.3f} of G(x) - G(x')" if change else ""
    what = "G, a symmetric image: a random monotone path"
    return Finding("symmetry", what, distance(found.flip(-1), found), FLOOR, control=True, note=note)


def _runner_up(subject: Subject) -> Target:
    with torch.no_grad():
        order = subject.network(subject.image, [LOGITS])[LOGITS][0].argsort(descending=True)
    return Target(next(int(category) for category in order if int(category) != subject.target.category))
