"""One image's path integral, level by level: which nodes it needs next, and when it is good enough."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workers.attribution.rules import Quadrature, graded_middle, graded_trapezoid, quadrature
from workers.params import AttributionParams, FixedRule

FIRST_INTERVALS = 6
"""Intervals of the adaptive rule's first level. Starting low costs nothing, since doubling keeps every gradient."""

CHANGE_PER_ERROR = 1.25
"""How much more a map changes in its last doubling than it is off afterwards, at least.

A ReLU network's gradient jumps along the path. A jump J at a random place in an interval of h is off by J h times a
number uniform in [-1/2, 1/2]; halving the interval changes the sum by exactly J h / 4 and leaves an independent error
of J h / 2 times such a number. So the L1 norms of change and error left have a ratio of 2 for one jump, and of sqrt(3)
for many, on the average; and no combination of the levels tells the error's sign. On real networks 95 maps of 100 have
a ratio above 1.25 when they converge (`benchmarks/rules.py`); with smooth activations it is far larger.
"""

ROUNDING_UNITS = 64
"""A completeness delta of this many units of rounding (of sum|map| + |F(x)| + |F(x')|) can't be told from zero."""

StopReason = Literal["tolerance", "zero_gradient", "max_evaluations", "fixed_rule", "non_finite"]


@dataclass(frozen=True)
class Attribution:
    """One image's integrated gradients, and how far they can be trusted.

    `map` (H x W) is signed, summed over colour, in units of the objective F. `objective_value` is F(x) and
    `baseline_value` F(x'). `attribution_sum` and `attribution_l1` are the sums of the map and of its absolute values;
    `completeness_delta` is `attribution_sum` - (F(x) - F(x')), zero for the exact integral (Sundararajan et al. 2017,
    proposition 1). `map_error` estimates the map's relative L1 error (NaN for fixed rules, which have no estimate).
    `evaluations` counts gradients, with those at the path's ends, which give F(x) and F(x'). `converged` is None for
    fixed rules, which don't judge themselves. `stop_reason`: `tolerance` (both tolerances are met), `zero_gradient`
    (the same, and the map is zero), `max_evaluations`, `fixed_rule`, or `non_finite` (NaN or infinity came up).
    """

    map: Tensor
    objective_value: float
    baseline_value: float
    attribution_sum: float
    attribution_l1: float
    completeness_delta: float
    map_error: float
    evaluations: int
    converged: bool | None
    stop_reason: StopReason


class LevelSum(NamedTuple):
    """The weighted sum over a level's nodes of gradient times (x - x') (H x W, fp64), and F at both ends (scalars)."""

    map: Tensor
    value: Tensor
    baseline_value: Tensor


Plan = Generator[Quadrature, LevelSum, Attribution]
"""Yields the nodes of a level, is sent their sum, and returns the attribution when no further level is needed."""


def plan(params: AttributionParams, dtype: torch.dtype) -> Plan:
    """The plan for one image by its rule; `dtype` is that of the gradients, whose rounding bounds what can be asked."""
    if params.rule == "adaptive":
        return _adaptive(params, ROUNDING_UNITS * torch.finfo(dtype).eps)
    return _fixed(params.rule)


def _fixed(rule: FixedRule) -> Plan:
    nodes = quadrature(rule).with_ends()
    level = yield nodes
    measures = _measure(level.map, None, level)
    stop: StopReason = "fixed_rule" if measures.finite else "non_finite"
    return _attribution(level.map, measures, len(nodes.nodes), None if measures.finite else False, stop)


def _adaptive(params: AttributionParams, rounding: float) -> Plan:
    """Nested graded trapezoids, T(2n) = (T(n) + M(n)) / 2 with M the midpoint rule: no gradient is taken twice."""
    intervals = min(FIRST_INTERVALS, (params.max_evaluations - 1) // 2)  # leaves room for one doubling
    level = yield graded_trapezoid(intervals)
    estimate = level.map
    measures = _measure(estimate, None, level)
    while measures.finite and 2 * intervals < params.max_evaluations:
        complete_before = measures.complete(params.tolerance.completeness, rounding)
        level = yield graded_middle(intervals)
        previous, estimate = estimate, (estimate + level.map) / 2
        measures = _measure(estimate, previous, level)
        intervals *= 2
        complete = complete_before and measures.complete(params.tolerance.completeness, rounding)
        if complete and measures.map_error <= params.tolerance.map:
            stop: StopReason = "tolerance" if measures.l1 else "zero_gradient"
            return _attribution(estimate, measures, intervals + 1, True, stop)
    stop = "max_evaluations" if measures.finite else "non_finite"
    return _attribution(estimate, measures, intervals + 1, False, stop)


class _Measures(NamedTuple):
    """What an estimate is judged by: the map's sum, L1 norm and L1 change since the last level; F at both ends."""

    total: float
    l1: float
    change: float
    value: float
    baseline_value: float

    @property
    def delta(self) -> float:
        return self.total - (self.value - self.baseline_value)

    @property
    def map_error(self) -> float:
        """The error left, estimated from the change of the last doubling, relative to the map."""
        return self.change / CHANGE_PER_ERROR / max(self.l1, sys.float_info.min)

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (self.l1, self.value, self.baseline_value)))

    def complete(self, tolerance: float, rounding: float) -> bool:
        """Whether the completeness delta is within the tolerance, or so small that it may be rounding."""
        noise = rounding * (self.l1 + abs(self.value) + abs(self.baseline_value))
        return abs(self.delta) <= max(tolerance * abs(self.value - self.baseline_value), noise)


def _measure(estimate: Tensor, previous: Tensor | None, level: LevelSum) -> _Measures:
    """All measures with one transfer from the device; no previous estimate, no change (NaN)."""
    change = estimate.new_tensor(math.nan) if previous is None else (estimate - previous).abs().sum()
    scalars = estimate.sum(), estimate.abs().sum(), change, level.value, level.baseline_value
    return _Measures(*torch.stack(scalars).tolist())


def _attribution(
    estimate: Tensor, measures: _Measures, evaluations: int, converged: bool | None, stop: StopReason
) -> Attribution:
    return Attribution(
        map=estimate,
        objective_value=measures.value,
        baseline_value=measures.baseline_value,
        attribution_sum=measures.total,
        attribution_l1=measures.l1,
        completeness_delta=measures.delta,
        map_error=measures.map_error,
        evaluations=evaluations,
        converged=converged,
        stop_reason=stop,
    )
