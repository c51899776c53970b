"""Integrated gradients of many images at once, each with as many gradients as it needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workers.attribution.objective import Target, as_target, objective
from workers.attribution.path import Attribution, LevelSum, Plan, plan
from workers.attribution.rules import Quadrature
from workers.errors import ModelError
from workers.features import LOGITS, Network
from workers.params import AttributionParams
from workers.precision import full_precision


def integrated_gradients(
    network: Network,
    images: Tensor,
    targets: Tensor | Sequence[int | Target],
    baselines: Tensor,
    params: AttributionParams,
    *,
    batch: int,
    on_step: Callable[[], None] = lambda: None,
) -> list[Attribution]:
    """Integrated gradients of F, the targets' `objective`, along the straight path from baseline to image.

    The map is (x - x') times the integral over a in [0, 1] of dF/dx at x' + a (x - x') (Sundararajan, Taly and Yan
    2017, equation 1), summed over colour. `images` (x) and `baselines` (x') are N x 3 x H x W, RGB in [0, 1], in the
    network's dtype (float32, or float64 for reference); `targets` are N classes. Maps come out in that dtype,
    summed in fp64; networks run in full fp32. Rule, objective, tolerances and the limit of evaluations are `params`.

    The adaptive rule doubles the intervals of a trapezoid in the square root of a until the map's error, estimated as
    ||T(2n) - T(n)||_1 / 1.5, is at most tolerance.map ||T(2n)||_1 and, at two levels running (it can be small by
    cancellation), |completeness delta| <= tolerance.completeness |F(x) - F(x')|.

    All images share one queue of (image, node) pairs. Every evaluation has exactly `batch` rows, the last filled with
    copies, and an image's sum is taken node by node in fixed order: its result doesn't depend on its companions. Images
    that are done leave the queue; one that isn't finite spoils no other. Memory: some maps (H x W, fp64) an image and
    `batch` gradients, however many evaluations. The network sees the memory format of `images` and `baselines`; with
    channels_last it is fastest. `on_step` is called after each evaluation.

    Raises ModelError for a network in reduced precision, and for a target that the network doesn't have.
    """
    if network.dtype not in (torch.float32, torch.float64):
        raise ModelError(f"attribution needs a network in float32, not {network.dtype}: run it with full precision")
    paths = [
        _Path(index, as_target(target), image, plan(params, images.dtype))
        for index, (image, target) in enumerate(zip(images, targets, strict=True))
    ]
    queue = deque(pair for path in paths for pair in path.pairs())
    with full_precision():
        while queue:
            pairs = [queue.popleft() for _ in range(min(batch, len(queue)))]
            filled = pairs + pairs[-1:] * (batch - len(pairs))
            values, contributions = _evaluate(network, images, baselines, filled, params.objective)
            for pair, value, contribution in zip(pairs, values, contributions, strict=False):
                queue.extend(pair.path.add(pair, value, contribution))
            on_step()
    return [replace(path.attribution, map=path.attribution.map.to(images.dtype)) for path in paths]


class _Pair(NamedTuple):
    """One gradient to take: on which image's path, where, and with which weight in the sum."""

    path: _Path
    node: float
    weight: float


class _Path:
    """One image's way through the queue: the sum of its current level, and its plan for the next."""

    attribution: Attribution

    def __init__(self, index: int, target: Target, image: Tensor, plan: Plan):
        self.index = index
        self.target = target
        self._plan = plan
        self._level = next(plan)
        self._sum = torch.zeros_like(image[0], dtype=torch.float64)
        self._ends = {0.0: self._sum.new_zeros(()), 1.0: self._sum.new_zeros(())}
        self._pending = 0

    def pairs(self) -> list[_Pair]:
        """The gradients that the current level needs, in the order of their sum."""
        nodes, weights = self._level
        self._pending = len(nodes)
        return [_Pair(self, node, weight) for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)]

    def add(self, pair: _Pair, value: Tensor, contribution: Tensor) -> Iterable[_Pair]:
        """Take in F (scalar) and gradient times (x - x') (H x W) at a node; gives the next level's pairs at its end."""
        if pair.node in self._ends:
            self._ends[pair.node] = value
        if pair.weight:  # an end that the rule doesn't use may have an infinite gradient
            self._sum.add_(contribution, alpha=pair.weight)
        self._pending -= 1
        return self._next_level() if self._pending == 0 else ()

    def _next_level(self) -> Iterable[_Pair]:
        level = LevelSum(self._sum, value=self._ends[1.0], baseline_value=self._ends[0.0])
        self._sum = torch.zeros_like(self._sum)
        try:
            self._level: Quadrature = self._plan.send(level)
        except StopIteration as end:
            self.attribution = end.value
            return ()
        return self.pairs()


def _evaluate(
    network: Network, images: Tensor, baselines: Tensor, pairs: Sequence[_Pair], kind: Literal["logit", "softmax"]
) -> tuple[Tensor, Tensor]:
    """F (B) and its gradient times (x - x'), summed over colour (B x H x W), both fp64, at B nodes."""
    rows = torch.tensor([pair.path.index for pair in pairs], device=images.device)
    nodes = torch.tensor([pair.node for pair in pairs], dtype=images.dtype, device=images.device)
    ends, starts = images[rows], baselines[rows]
    points = torch.lerp(starts, ends, nodes.view(-1, 1, 1, 1)).requires_grad_()  # exact at both ends
    with torch.enable_grad():
        values = objective(network(points, [LOGITS])[LOGITS], [pair.path.target for pair in pairs], kind)
        (gradients,) = torch.autograd.grad(values.sum(), points)
    contributions = (gradients.double() * (ends.double() - starts.double())).sum(1)
    return values.detach().double(), contributions
