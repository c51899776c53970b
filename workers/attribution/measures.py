"""How faithful a map is: what becomes of the prediction as its first pixels go; how it hangs on the baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor

from workers.attribution.average import Explanation
from workers.attribution.objective import Target
from workers.attribution.paths import explain, path_ends
from workers.features import LOGITS, Network
from workers.params import AttributionParams
from workers.precision import full_precision

STEPS = 32
"""In so many equal steps all pixels are replaced."""

PLAIN_BASELINES = ("black", "white", "mean", "blur")
"""Those that a map is compared by."""


class Options(TypedDict):
    """What maps are made with, besides the parameters; see `paths.explain`."""

    seeds: Sequence[int]
    given: Sequence[Tensor]
    batch: int
    on_step: Callable[[], None]


def measure(
    network: Network,
    images: Tensor,
    targets: Sequence[Target],
    found: Sequence[Explanation],
    params: AttributionParams,
    **options: Unpack[Options],
) -> list[dict[str, float]]:
    """The measures that `params` ask for, as columns of each image. `baseline` is for integrated gradients only."""
    columns: dict[str, list[float]] = {}
    maps = [explanation.map for explanation in found]
    batch, on_step = options["batch"], options["on_step"]
    starts = path_ends(images, options["seeds"], params, network.mean, options["given"])[1][:, 0]
    for kind in ("deletion", "insertion"):
        if kind in params.measures:
            columns[f"{kind}_auc"] = replacement_auc(
                network, images, starts, maps, targets, kind, batch=batch, on_step=on_step
            )
    if "baseline" in params.measures and params.method == "integrated_gradients":
        columns["baseline_distance"] = _baseline_distance(network, images, targets, maps, params, options)
    return [dict(zip(columns, figures, strict=True)) for figures in zip(*columns.values(), strict=True)] or [
        {} for _ in found
    ]


def _baseline_distance(
    network: Network,
    images: Tensor,
    targets: Sequence[Target],
    maps: Sequence[Tensor],
    params: AttributionParams,
    options: Options,
) -> list[float]:
    """The mean distance of each map from those by the other plain baselines."""
    others = [name for name in PLAIN_BASELINES if params.baselines != [name]]
    total = torch.zeros(len(maps), dtype=torch.float64)
    for name in others:
        asked = params.model_copy(update={"baseline": name})
        found = explain(network, images, targets, params=asked, **options)
        total += torch.tensor([map_distance(one, other.map) for one, other in zip(maps, found, strict=True)])
    return (total / len(others)).tolist()


@torch.no_grad()
def replacement_auc(
    network: Network,
    images: Tensor,
    baselines: Tensor,
    maps: Sequence[Tensor],
    targets: Sequence[Target],
    kind: Literal["deletion", "insertion"],
    *,
    batch: int,
    on_step: Callable[[], None] = lambda: None,
) -> list[float]:
    """The area under the target's probability over the share of pixels replaced, from 0 to 1 (Petsiuk et al. 2018).

    `images` and `baselines` are N x 3 x H x W, `maps` N times H x W. By `deletion` pixels of the image become the
    baseline's, those of the highest map value first: a faithful map makes the probability fall at once, and the area is
    small. By `insertion` the baseline's pixels become the image's, and the area is large. Equal values go in order of
    place. Every evaluation has exactly `batch` rows, so that an image's figure doesn't depend on its companions.
    """
    ranks = torch.stack([_ranks(one) for one in maps]).to(images.device)
    pairs = [(row, step) for row in range(len(images)) for step in range(STEPS + 1)]
    found: list[float] = []
    with full_precision():
        for start in range(0, len(pairs), batch):
            chunk = pairs[start : start + batch]
            filled = chunk + chunk[-1:] * (batch - len(chunk))
            rows = torch.tensor([row for row, _ in filled], device=images.device)
            counts = torch.tensor([round(ranks[0].numel() * step / STEPS) for _, step in filled], device=images.device)
            replaced = (ranks[rows] < counts.view(-1, 1, 1))[:, None]
            old, new = (images, baselines) if kind == "deletion" else (baselines, images)
            probabilities = network(torch.where(replaced, new[rows], old[rows]), [LOGITS])[LOGITS].double().softmax(1)
            found += [float(probabilities[i, targets[row].category]) for i, (row, _) in enumerate(chunk)]
            on_step()
    curves = torch.tensor(found, dtype=torch.float64).view(len(images), STEPS + 1)
    return torch.trapezoid(curves, dx=1 / STEPS).tolist()


def map_distance(one: Tensor, other: Tensor) -> float:
    """||one - other||_1 / (||one||_1 + ||other||_1): 0 for equal maps, 1 for maps that share nothing."""
    total = one.abs().sum() + other.abs().sum()
    return float((one - other).abs().sum() / total) if total else 0.0


def _ranks(values: Tensor) -> Tensor:
    """Each element's place in descending order."""
    order = values.flatten().argsort(descending=True, stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device)).view_as(values)
