"""Integrated gradients beside Captum's, and beside the network's own speed: one run, one device, fp32.

(a) images a second at an equal number of gradients; (b) the time until 95 % of the maps are certified to 5 %, where
Captum certifies by running n and 2n points until they agree; (c) the share of the rate at which the network takes plain
gradients, in the best layout and batch. EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

sys.path.remove(str(Path(__file__).resolve().parent))  # as in benchmarks/pipeline.py

from benchmarks._measuring import load, row, seconds
from benchmarks.rules import PHOTOGRAPHS, VIEWS, view
from workers.attribution.integrate import integrated_gradients
from workers.attribution.path import CHANGE_PER_ERROR
from workers.attribution.predict import predict
from workers.features import LOGITS, Network
from workers.folding import fast_form
from workers.params import AttributionParams
from workers.precision import full_precision

POINTS = 50
"""Captum's default number of points, by Gauss-Legendre quadrature."""

TOLERANCE, SHARE = 0.05, 0.95
FLOOR_BATCHES = (1, 2, 4, 8, 16, 32)


def main() -> int:
    """Print the table."""
    options = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load("efficientnet_lite0").to(device)
    views = [view(name, *each, side=options.side) for each in VIEWS for name in PHOTOGRAPHS]
    images = torch.stack(views[: options.images]).to(device).contiguous(memory_format=torch.channels_last)
    targets = predict(network, images, batch=options.batch).argmax(1)
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"EfficientNet-Lite0, {len(images)} images of {options.side} px, {name}, torch {torch.__version__}, "
          f"Captum {version('captum')}, batches of {options.batch}\n")  # fmt: skip
    row("what", "measured", "goal")
    with full_precision():
        fast = fast_form(network)
        floor = measure_floor("plain forward and input gradient, the best way", network, images[:1])
        folded = measure_floor("  the same with BatchNorm folded, as jobs have it", fast, images[:1])
        rate = measure_rates(network, images, targets, options)
        row(
            "(c) gradients of (a), of the plain rate",
            f"{rate / floor:.2f}; of the folded network's {rate / folded:.2f}",
            "0.95",
        )
        measure_certified(network, images, targets, options)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8 if not torch.cuda.is_available() else 64)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def measure_floor(what: str, network: Network, image: Tensor) -> float:
    """Plain forward and input gradient, images a second, in the best of layouts and batches."""
    rates: dict[str, float] = {}
    for layout in (torch.channels_last, torch.contiguous_format):
        for batch in FLOOR_BATCHES if image.device.type == "cpu" else (32, 64, 128):
            points = image.repeat(batch, 1, 1, 1).contiguous(memory_format=layout).requires_grad_()
            plain_gradient(network, points)
            fastest = min(seconds(partial(plain_gradient, network, points)) for _ in range(4))
            rates[f"{str(layout).removeprefix('torch.')}, batch {batch}"] = batch / fastest
    best = max(rates, key=lambda name: rates[name])
    row(what, f"{rates[best]:.1f} images/s ({best})")
    return rates[best]


def plain_gradient(network: Network, points: Tensor) -> Tensor:
    return torch.autograd.grad(network(points, [LOGITS])[LOGITS][:, 0].sum(), points)[0]


class Logits(nn.Module):
    """The network as Captum takes it."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of pixels."""
        return self.network(pixels, [LOGITS])[LOGITS]


def captum_map(network: Network, image: Tensor, target: int, points: int) -> Tensor:
    """As Captum does it by default: one image, all points in one batch; large numbers of points 50 at a time."""
    ig = IntegratedGradients(Logits(network))
    most = None if points <= POINTS else POINTS
    found = ig.attribute(image[None], target=target, n_steps=points, internal_batch_size=most)
    return found.sum(1)[0].double()


def measure_rates(network: Network, images: Tensor, targets: Tensor, options: argparse.Namespace) -> float:
    """(a) both at 50 points by the same rule; gradients a second of ours."""
    params = AttributionParams.model_validate({"rule": {"gauss_legendre": POINTS - 2}})  # and both ends: 50 gradients
    few = images[: max(4, len(images) // 2)].contiguous(memory_format=torch.channels_last)
    base, targets = torch.zeros_like(few), targets[: len(few)]
    ours, theirs, fast = [], [], fast_form(network)
    for _ in range(options.repeats):
        ours.append(seconds(lambda: integrated_gradients(fast, few, targets, base, params, batch=options.batch)))
        theirs.append(
            seconds(lambda: [captum_map(network, image, int(t), POINTS) for image, t in zip(few, targets, strict=True)])
        )
    ratio = median(b / a for a, b in zip(ours, theirs, strict=True))
    rates = f"{len(few) / median(ours):.2f} of {len(few) / median(theirs):.2f} images/s"
    row(f"(a) {POINTS} gradients an image, over default Captum", f"{ratio:.2f}: {rates}", "1.4")
    return len(few) * POINTS / median(ours)


def measure_certified(network: Network, images: Tensor, targets: Tensor, options: argparse.Namespace) -> None:
    """(b) until 95 % of the maps are certified, each by its own estimate; Captum by ours and by the plain change.

    The maps alone are judged on both sides, so the sum may be as incomplete as it likes.
    """
    began = time.perf_counter()
    params = AttributionParams.model_validate({"tolerance": {"map": TOLERANCE, "completeness": 1e6}})
    found = integrated_gradients(
        fast_form(network), images, targets, torch.zeros_like(images), params, batch=options.batch
    )
    ours = time.perf_counter() - began
    certified = sum(result.map_error <= TOLERANCE for result in found)
    spent = np.mean([result.evaluations for result in found])
    row(
        "(b) ours: all of them through the queue",
        f"{ours:.1f} s, {certified} of {len(images)}, {spent:.0f} gradients each",
    )
    for factor, how in ((1.0, "change within 5 %"), (CHANGE_PER_ERROR, f"change / {CHANGE_PER_ERROR} within 5 %")):
        times, points = captum_certifies(network, images, targets, factor)
        needed = float(np.sort(times)[: int(np.ceil(SHARE * len(times)))].sum())
        what = f"    Captum, n and 2n from 25, {how}"
        row(what, f"{needed:.1f} s, {np.mean(points):.0f} gradients each: {needed / ours:.1f} x", "3 (CPU), 4 (H100)")


def captum_certifies(
    network: Network, images: Tensor, targets: Tensor, factor: float
) -> tuple[Sequence[float], Sequence[int]]:
    """Seconds and gradients until each image's map of 2n points differs from that of n by little enough."""
    times, spent = [], []
    for image, target in zip(images, targets.tolist(), strict=True):
        began, points = time.perf_counter(), 25
        before, total = captum_map(network, image, target, points), points
        while points < 800:
            points, total = 2 * points, total + 2 * points
            after = captum_map(network, image, target, points)
            change = float((after - before).abs().sum() / after.abs().sum()) / factor
            before = after
            if change <= TOLERANCE:
                break
        times.append(time.perf_counter() - began)
        spent.append(total)
    return times, spent


if __name__ == "__main__":
    sys.exit(main())
