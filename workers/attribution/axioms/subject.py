"""What the axioms are checked on: one image, its baseline, and the function that is explained."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from workers.attribution.integrate import integrated_gradients
from workers.attribution.objective import Target, objective
from workers.attribution.path import Attribution
from workers.features import LOGITS, Network
from workers.params import AttributionParams

Function = Callable[[Tensor], Tensor]
"""F: values (B) of images (B x 3 x H x W)."""

FLOOR = 1e-9
"""Relative L1 distance of two fp64 maps that are the same but for rounding."""


@dataclass(frozen=True)
class Subject:
    """A network (fp32), its copy in fp64, and one image (1 x 3 x H x W in [0, 1], fp32) with its baseline and target.

    `params` are the run's own. Checks of exact statements use `intervals` of a trapezoid, in fp64: they hold at any
    number. `batch` rows make an evaluation.
    """

    network: Network
    exact: Network
    image: Tensor
    baseline: Tensor
    target: Target
    params: AttributionParams
    batch: int
    intervals: int = 8

    @property
    def single(self) -> Function:
        """F in fp32."""
        return function_of(self.network, self.target, self.params.objective)

    def exactly(self, network: Network | None = None, target: Target | None = None) -> Function:
        """F in fp64, of the subject's network and target or others."""
        return function_of(network or self.exact, target or self.target, self.params.objective)

    @property
    def x(self) -> Tensor:
        """The image in fp64."""
        return self.image.double()

    @property
    def x0(self) -> Tensor:
        """The baseline in fp64."""
        return self.baseline.double()

    def gradients(self, function: Function, x: Tensor | None = None, x0: Tensor | None = None) -> Attribution:
        """Integrated gradients of a function along the straight path from x0 to x (the subject's own)."""
        x, x0 = self.x if x is None else x, self.x0 if x0 is None else x0
        return integrate(function, x, x0, self.batch, rule={"trapezoid": self.intervals})

    def converged(self, function: Function, x: Tensor, x0: Tensor) -> Attribution:
        """The same by the adaptive rule to the run's tolerances, for what is only as exact as the integral."""
        tolerance, most = self.params.tolerance, self.params.max_evaluations
        return integrate(function, x, x0, self.batch, tolerance=tolerance, max_evaluations=most)


def function_of(network: Network, target: Target, kind: Any) -> Function:
    """The objective of one target, as a function of images."""
    return lambda pixels: objective(network(pixels, [LOGITS])[LOGITS], [target] * len(pixels), kind)


def as_double(network: Network) -> Network:
    """A copy of the network in fp64."""
    double = deepcopy(network).double()
    double.dtype = torch.float64
    return double


def integrate(function: Function, x: Tensor, x0: Tensor, batch: int, **params: Any) -> Attribution:
    """Integrated gradients of any function as `params` say; `x` and `x0` are 1 x 3 x H x W, fp32 or fp64."""
    return integrated_gradients(
        cast(Network, _Scores(function, x.dtype)), x, [0], x0, AttributionParams(**params), batch=batch
    )[0]


def distance(one: Tensor, other: Tensor) -> float:
    """||one - other||_1 / ||other||_1; 0 for two maps that are zero."""
    difference = (one.double() - other.double()).abs().sum()
    return 0.0 if difference == 0 else float(difference / other.double().abs().sum())


@dataclass(frozen=True)
class _Scores:
    """A function dressed as a network of one class."""

    function: Function
    dtype: torch.dtype

    def __call__(self, pixels: Tensor, layers: object) -> dict[str, Tensor]:
        return {LOGITS: self.function(pixels)[:, None]}
