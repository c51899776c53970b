"""Cascading randomisation (Adebayo et al. 2018): a map that survives the loss of the weights doesn't explain them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from workers.attribution.axioms.subject import Subject
from workers.attribution.smoothing import gaussian_matrix
from workers.features import Network

STAGES = 6
"""In so many steps the weights are lost, from the classifier down to the first layer."""

WINDOW = 1.5
"""Standard deviation of SSIM's window, in pixels (Wang et al. 2004)."""


@dataclass(frozen=True)
class Likeness:
    """How like the maps are to those of the trained network, the mean over images, 1 for equal maps.

    All layers from the output down to `down_to` have lost their weights, `layers` of them. `spearman` is the rank
    correlation of the signed maps, `spearman_absolute` that of |map|, `ssim` the structural similarity of |map|.
    """

    down_to: str
    layers: int
    spearman: float
    spearman_absolute: float
    ssim: float


def cascade(subjects: Sequence[Subject]) -> Iterator[Likeness]:
    """Take the weights from the network of the subjects, stage by stage, and compare their maps by integration."""
    trained = [_map(subject) for subject in subjects]
    network = deepcopy(subjects[0].network)
    layers = _layers(network)
    begin = 0
    for end in stages_of(network):
        for path in layers[begin:end]:
            _reset(network, path)
        maps = [_map(replace(subject, network=network)) for subject in subjects]
        likeness = [_alike(one, other) for one, other in zip(maps, trained, strict=True)]
        yield Likeness(layers[end - 1], end, *torch.tensor(likeness).mean(0).tolist())
        begin = end


def stages_of(network: Network) -> list[int]:
    """How many of its layers have lost their weights at each stage."""
    layers = len(_layers(network))
    return sorted({round(layers * stage / STAGES) for stage in range(1, STAGES + 1)} - {0})


def spearman(one: Tensor, other: Tensor) -> float:
    """The rank correlation of two maps (any equal shape); equal values are ranked in order of place."""
    ranks = torch.stack([values.flatten().argsort(stable=True).argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def ssim(one: Tensor, other: Tensor) -> float:
    """The mean structural similarity (Wang et al. 2004, equation 13) of two maps (H x W) in [0, 1]."""
    rows, columns = (torch.from_numpy(gaussian_matrix(size, WINDOW)).to(one.device) for size in one.shape)

    def smooth(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    a, b = one.double(), other.double()
    mean_a, mean_b = smooth(a), smooth(b)
    variances = smooth(a * a) - mean_a**2 + smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
    return float(likeness.mean())


def _map(subject: Subject) -> Tensor:
    return subject.gradients(subject.single, subject.image, subject.baseline).map


def _alike(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    a, b = one.abs(), other.abs()
    return spearman(one, other), spearman(a, b), ssim(_unit(a), _unit(b))


def _unit(values: Tensor) -> Tensor:
    """Scaled so that the 99th percentile is 1, and clipped, as a picture of the map would be."""
    scale = values.flatten().double().quantile(0.99).clamp_min(torch.finfo(torch.float64).tiny)
    return (values.double() / scale).clamp(0, 1)


def _layers(network: Network) -> list[str]:
    """Paths of the layers that have weights, from the last to the first."""
    named = {path: network.module.get_submodule(path) for path in network.trace.last}
    return [path for path, layer in reversed(named.items()) if _has_weights(layer)]


def _has_weights(layer: nn.Module) -> bool:
    return hasattr(layer, "reset_parameters") and next(layer.parameters(recurse=False), None) is not None


def _reset(network: Network, path: str) -> None:
    layer = network.module.get_submodule(path)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        layer.reset_parameters()  # pyright: ignore[reportCallIssue]
