"""One image's attribution averaged over several paths: over baselines, and over noisy copies of the image."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.attribution.path import Attribution


@dataclass(frozen=True)
class Explanation:
    """An image's map (H x W, signed), with what is known of it; figures that the method doesn't have are None.

    Of an average, `objective_value`, `baseline_value` and `completeness_delta` are means over the `paths`, so that
    completeness holds of the mean map, and `map_error` bounds its relative error by the paths' own errors.
    `paths_error` is the standard error of the mean over the paths, in L1 relative to the map: what other draws of
    baselines and noise would change. `evaluations` counts those of all paths.
    """

    map: Tensor
    attribution_sum: float
    attribution_l1: float
    objective_value: float
    evaluations: int
    baseline_value: float | None = None
    completeness_delta: float | None = None
    map_error: float | None = None
    converged: bool | None = None
    stop_reason: str | None = None
    paths: int = 1
    paths_error: float | None = None


def average(parts: Sequence[Attribution]) -> Explanation:
    """The mean of an image's integrated gradients over its paths. It has converged if every path has."""
    maps = torch.stack([part.map for part in parts]).double()
    mean = maps.mean(0)
    l1 = float(mean.abs().sum()) if len(parts) > 1 else parts[0].attribution_l1
    error = _mean([part.map_error * part.attribution_l1 for part in parts]) / max(l1, sys.float_info.min)
    worst = min(parts, key=_rank)
    return Explanation(
        map=mean.to(parts[0].map.dtype),
        attribution_sum=_mean([part.attribution_sum for part in parts]),
        attribution_l1=l1,
        objective_value=_mean([part.objective_value for part in parts]),
        baseline_value=_mean([part.baseline_value for part in parts]),
        completeness_delta=_mean([part.completeness_delta for part in parts]),
        map_error=None if math.isnan(error) else error,
        evaluations=sum(part.evaluations for part in parts),
        converged=worst.converged,
        stop_reason=worst.stop_reason,
        paths=len(parts),
        paths_error=standard_error(maps),
    )


def standard_error(maps: Tensor) -> float | None:
    """The standard error of the mean of K maps (K x H x W, fp64), in L1 relative to that mean; None for one map."""
    if len(maps) < 2:
        return None
    spread = maps.std(0) / math.sqrt(len(maps))
    return float(spread.sum() / maps.mean(0).abs().sum().clamp_min(sys.float_info.min))


def _rank(part: Attribution) -> int:
    """Paths that say most about a failure come first."""
    return 0 if part.stop_reason == "non_finite" else 1 if part.converged is False else 2


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
