"""Other attribution methods, all but DeepLift by Captum (an extra). A map is H x W, summed over colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workers.attribution.average import Explanation, standard_error
from workers.attribution.axioms.deeplift import deeplift
from workers.attribution.captum import captum
from workers.attribution.objective import Target, objective
from workers.attribution.paths import noisy_copies, path_ends
from workers.features import LOGITS, Network
from workers.params import AttributionParams, GradCam, Method, Occlusion
from workers.precision import full_precision

NEED_BASELINE = ("deep_lift", "occlusion")
"""Methods that compare with a baseline; for the others that column is null."""


def method_name(method: Method) -> str:
    """The name of a method given with or without settings."""
    return method if isinstance(method, str) else "grad_cam" if isinstance(method, GradCam) else "occlusion"


def explain_by(
    method: Method,
    taken: Network,
    network: Network,
    images: Tensor,
    targets: Sequence[Target],
    seeds: Sequence[int],
    params: AttributionParams,
    *,
    given: Sequence[Tensor] = (),
    batch: int,
    on_step: Callable[[], None] = lambda: None,
) -> list[Explanation]:
    """Each image's map by a method of Captum; `taken` is the network `prepared`. The others are as for `paths.explain`.

    Maps are averaged over noisy copies and, for methods that need one, over baselines. Saliency and its like are
    gradients as they are; saliency's are absolute. Occlusion has the objective's fall at each place, grad_cam its
    layer's map, enlarged.
    """
    name = method_name(method)
    if name in NEED_BASELINE:
        ends, starts = path_ends(images, seeds, params, network.mean, given)
    else:
        ends = starts = torch.stack(
            [noisy_copies(x, params.smooth, seed) for x, seed in zip(images, seeds, strict=True)]
        )
    each = ends.shape[1]
    rows, base = ends.flatten(0, 1), starts.flatten(0, 1)
    repeated = [target for target in targets for _ in range(each)]
    found, values, evaluations = _in_batches(method, taken, rows, base, repeated, params.objective, batch, on_step)
    baseline_values = _values(network, base, repeated, params.objective, batch) if name in NEED_BASELINE else None
    return [
        _explanation(
            found[i : i + each],
            values[i : i + each],
            None if baseline_values is None else baseline_values[i : i + each],
            evaluations * each,
            adds_up=name == "deep_lift",
        )
        for i in range(0, len(found), each)
    ]


def _explanation(
    maps: Tensor, values: Tensor, baseline_values: Tensor | None, evaluations: int, *, adds_up: bool
) -> Explanation:
    mean, value = maps.mean(0), float(values.mean())
    baseline = None if baseline_values is None else float(baseline_values.mean())
    total = float(mean.sum())
    finite = bool(maps.isfinite().all() and values.isfinite().all())
    return Explanation(
        map=mean,
        attribution_sum=total,
        attribution_l1=float(mean.abs().sum()),
        objective_value=value,
        baseline_value=baseline,
        completeness_delta=total - (value - baseline) if adds_up and baseline is not None else None,
        evaluations=evaluations,
        stop_reason="single_pass" if finite else "non_finite",
        paths=len(maps),
        paths_error=standard_error(maps),
    )


def _in_batches(
    method: Method,
    network: Network,
    rows: Tensor,
    base: Tensor,
    targets: Sequence[Target],
    kind: Any,
    batch: int,
    on_step: Callable[[], None],
) -> tuple[Tensor, Tensor, int]:
    """Maps (N x H x W, fp64), objectives (N, fp64), and the evaluations that one map took."""
    maps, values, evaluations = [], [], 0
    with full_precision():
        for start in range(0, len(rows), batch):
            index = [min(i, len(rows) - 1) for i in range(start, start + batch)]
            scores = _Scores(network, [targets[i] for i in index], kind)
            found = _maps(method, scores, network, rows[index], base[index])
            evaluations = scores.calls
            maps.append(found.detach().double())
            values.append(scores(rows[index]).detach().double())
            on_step()
    return torch.cat(maps)[: len(rows)], torch.cat(values)[: len(rows)], evaluations


def _maps(method: Method, scores: _Scores, network: Network, x: Tensor, x0: Tensor) -> Tensor:
    if method == "deep_lift":
        return deeplift(scores, x, x0)
    methods = captum()
    match method:
        case "saliency":
            return methods.Saliency(scores).attribute(x.requires_grad_()).sum(1)
        case "input_x_gradient":
            return methods.InputXGradient(scores).attribute(x.requires_grad_()).sum(1)
        case "guided_backprop":
            return methods.GuidedBackprop(scores).attribute(x.requires_grad_()).sum(1)
        case "deconvolution":
            return methods.Deconvolution(scores).attribute(x.requires_grad_()).sum(1)
        case Occlusion(occlusion=side, stride=stride):
            window, step = min(side, *x.shape[-2:]), stride or max(1, side // 2)
            options = {
                "sliding_window_shapes": (3, window, window),
                "strides": (3, min(step, window), min(step, window)),
            }
            return methods.Occlusion(scores).attribute(x, baselines=x0, **options)[:, 0]
        case GradCam(grad_cam=name):
            layer = network.module.get_submodule(network.resolve(name))
            small = methods.LayerGradCam(scores, layer).attribute(x)
            return methods.LayerAttribution.interpolate(small, x.shape[-2:], interpolate_mode="bilinear")[:, 0]
    raise AssertionError(f"{method} is integrated gradients, or was not resolved")


@torch.no_grad()
def _values(network: Network, rows: Tensor, targets: Sequence[Target], kind: Any, batch: int) -> Tensor:
    """The objective of each row, in batches of one size."""
    found = []
    with full_precision():
        for start in range(0, len(rows), batch):
            index = [min(i, len(rows) - 1) for i in range(start, start + batch)]
            found.append(_Scores(network, [targets[i] for i in index], kind)(rows[index]).double())
    return torch.cat(found)[: len(rows)]


class _Scores(nn.Module):
    """The objective of each row, as Captum calls it; of an input several times the batch, the targets go round."""

    def __init__(self, network: Network, targets: Sequence[Target], kind: Any):
        super().__init__()
        self.network = network
        self.targets = list(targets)
        self.kind = kind
        self.calls = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        targets = self.targets * (len(pixels) // len(self.targets))
        return objective(self.network(pixels, [LOGITS])[LOGITS], targets, self.kind)
