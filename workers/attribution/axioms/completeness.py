"""Completeness: a map sums to F(x) - F(x')."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.attribution.axioms.finding import Finding
from workers.attribution.axioms.subject import Function, Subject, integrate
from workers.attribution.integrate import integrated_gradients
from workers.attribution.path import Attribution
from workers.attribution.rules import Vector, gauss_legendre

CONTROL_NODES = 32


def check(subject: Subject) -> list[Finding]:
    """By the run's own rule and at twice its intervals, in fp32; and, as a control, by weights that don't sum to 1."""
    [own] = integrated_gradients(
        subject.network, subject.image, [subject.target], subject.baseline, subject.params, batch=subject.batch
    )
    n = 2 * max(1, own.evaluations - 1)
    twice = integrate(subject.single, subject.image, subject.baseline, subject.batch, rule={"trapezoid": n})
    tolerance = subject.params.tolerance.completeness
    share = own.baseline_value / own.objective_value if own.objective_value else float("nan")
    note = "; ".join(filter(None, [f"F(x')/F(x) = {share:.3f}", reached(own)]))
    return [
        Finding("completeness", "the sum is F(x) - F(x'), by the run's rule", missing(own), tolerance, note=note),
        Finding("completeness", "the same at twice the intervals", missing(twice), tolerance),
        _wrong_weights(subject, twice, tolerance),
    ]


def reached(found: Attribution) -> str:
    """A note where the integral itself, and not the axiom, is to blame."""
    return f"not converged after {found.evaluations} evaluations" if found.converged is False else ""


def missing(found: Attribution) -> float:
    """|completeness delta| relative to |F(x) - F(x')|."""
    return _relative(found.completeness_delta, found.objective_value - found.baseline_value)


def _relative(delta: float, change: float) -> float:
    return abs(delta) / abs(change) if change else (0.0 if delta == 0 else float("inf"))


def _wrong_weights(subject: Subject, right: Attribution, tolerance: float) -> Finding:
    """Gauss-Legendre's weights as tables have them, for [-1, 1]: they sum to 2."""
    nodes, weights = gauss_legendre(CONTROL_NODES)
    total = float(path_integral(subject.single, subject.image, subject.baseline, nodes, 2 * weights).sum())
    change = right.objective_value - right.baseline_value
    what = "weights that sum to 2, as Gauss-Legendre's for [-1, 1] do"
    note = f"the map sums to {total / change:.2f} of F(x) - F(x')" if change else ""
    return Finding("completeness", what, _relative(total - change, change), tolerance, control=True, note=note)


def path_integral(
    function: Function,
    x: Tensor,
    x0: Tensor,
    nodes: Vector | Sequence[float],
    weights: Vector | Sequence[float],
    powers: Tensor | None = None,
) -> Tensor:
    """The gradient along a path from x0 to x, by any nodes and weights: a map (H x W, fp64), summed over colour.

    Pixel i is at x0 + a^p (x - x0) at time a, with p its power (H x W); without powers the path is straight.
    """
    total = torch.zeros(x.shape[-2:], dtype=torch.float64, device=x.device)
    for a, weight in zip(nodes, weights, strict=True):
        place = torch.as_tensor(float(a), dtype=x.dtype, device=x.device)
        share, speed = (place, 1.0) if powers is None else (place**powers, powers * place ** (powers - 1))
        point = (x0 + share * (x - x0)).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(function(point).sum(), point)
        total += float(weight) * (gradient * (x - x0) * speed).sum(1)[0].double()
    return total
