"""Sensitivity: what alone differs from the baseline gets all of the change, what the function ignores gets nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.attribution.axioms.completeness import missing, reached
from workers.attribution.axioms.finding import Finding
from workers.attribution.axioms.subject import Function, Subject


def check(subject: Subject) -> list[Finding]:
    """One pixel, a patch, an ignored patch; and, as a control, plain gradients where F is saturated.

    One pixel changes F so little that fp32's rounding would show: it is checked in fp64, the patches in fp32.
    """
    pixel, patch = _strongest_pixel(subject), _patch(subject.image)
    return [
        *_only_there(subject, subject.exactly(), subject.x, subject.x0, pixel, "one pixel"),
        *_only_there(subject, subject.single, subject.image, subject.baseline, patch, "a patch"),
        _ignored(subject, patch),
        *_saturated(subject, pixel),
    ]


def _only_there(
    subject: Subject, function: Function, x: Tensor, x0: Tensor, region: Tensor, name: str
) -> list[Finding]:
    """The baseline is the image, but for a region (H x W, bool)."""
    found = subject.converged(function, x, torch.where(region, x0, x))
    outside = float(found.map[~region].abs().max())
    inside = missing(found) if found.attribution_l1 else float("inf")
    tolerance = subject.params.tolerance.completeness
    return [
        Finding("sensitivity", f"{name} off the baseline: largest |map| elsewhere", outside, 0.0),
        Finding(
            "sensitivity", f"{name} off the baseline: it gets F(x) - F(x')", inside, tolerance, note=reached(found)
        ),
    ]


def _ignored(subject: Subject, region: Tensor) -> Finding:
    """The function sees the baseline in the region, whatever the image has there."""

    def blind(pixels: Tensor) -> Tensor:
        return subject.single(torch.where(region, subject.baseline, pixels))

    found = subject.gradients(blind, subject.image, subject.baseline)
    inside = float(found.map[region].abs().max())
    return Finding("sensitivity", "a patch that the function ignores: largest |map| there", inside, 0.0)


def _saturated(subject: Subject, region: Tensor) -> list[Finding]:
    """The paper's example (its section 2.1) made of this F: a ReLU stops it half-way between F(x') and F(x)."""
    function, x = subject.exactly(), subject.x
    x0 = torch.where(region, subject.x0, x)
    with torch.no_grad():
        first, last = (float(function(point)) for point in (x0, x))
    sign, stop = (1.0 if last > first else -1.0), (first + last) / 2

    def saturated(pixels: Tensor) -> Tensor:
        return -torch.relu(sign * (stop - function(pixels)))

    found = subject.converged(saturated, x, x0)
    plain = _gradient(saturated, x)
    change = found.objective_value - found.baseline_value
    short = 1 - abs(float((plain * (x - x0)).sum()) / change) if change else 0.0
    tolerance = subject.params.tolerance.completeness
    what = "one pixel off the baseline, F saturated before x"
    return [
        Finding("sensitivity", f"{what}: it gets the change", missing(found), tolerance),
        Finding(
            "sensitivity",
            f"{what}: plain gradients",
            short,
            tolerance,
            control=True,
            note=f"the gradient is {float(plain.abs().max()):.1g} everywhere, and F changed by {abs(change):.2g}",
        ),
    ]


def _strongest_pixel(subject: Subject) -> Tensor:
    """Where gradient times (x - x') is largest, so that F changes there: H x W, bool, one of them true."""
    strength = (_gradient(subject.exactly(), subject.x) * (subject.x - subject.x0)).sum(1)[0].abs()
    region = torch.zeros(strength.numel(), dtype=torch.bool, device=strength.device)
    region[strength.argmax()] = True
    return region.view_as(strength)


def _patch(image: Tensor) -> Tensor:
    """A square in the middle, a quarter of the shorter side wide."""
    height, width = image.shape[-2:]
    side = max(1, min(height, width) // 4)
    region = torch.zeros((height, width), dtype=torch.bool, device=image.device)
    top, left = (height - side) // 2, (width - side) // 2
    region[top : top + side, left : left + side] = True
    return region


def _gradient(function: Function, x: Tensor) -> Tensor:
    """dF/dx at x: 1 x 3 x H x W."""
    point = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(function(point).sum(), point)[0]
