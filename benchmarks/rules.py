"""Which nodes along the path give the best map for the fewest gradients; whether the error estimate tells the truth.

Three networks (EfficientNet-Lite0 with its real weights; ResNet-18 and ConvNeXt-Atto trained for a minute or two to
tell views of these photographs apart), views of real photographs, black baseline. The truth is a trapezoid of 1,025
nodes. Rules are compared on subsets of those nodes; the adaptive rule is run as jobs run it. CPU, a quarter of an hour.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision import models as zoo

from benchmarks._measuring import load
from workers.attribution.integrate import integrated_gradients
from workers.attribution.predict import predict
from workers.features import LOGITS, Network
from workers.models import IMAGENET_MEAN, IMAGENET_STD
from workers.params import AttributionParams

PHOTOGRAPHS = (
    "astronaut.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
VIEWS = ((1.0, 0.5), (0.7, 0.2), (0.7, 0.8))
"""Of each photograph: the share of it that a view shows, and where that is cut out."""

SIDE = 96
NODES = 1024
BATCH = 32
Vector = NDArray[np.float64]


def main() -> int:
    """Print the tables, network by network."""
    options = arguments()
    torch.manual_seed(0)
    began = time.monotonic()
    pictures = [view(name, *each) for name in PHOTOGRAPHS for each in VIEWS][: options.images]
    images = torch.stack(pictures).contiguous(memory_format=torch.channels_last)
    networks = {
        "EfficientNet-Lite0": lambda: load("efficientnet_lite0"),
        "ResNet-18, briefly trained": lambda: trained(zoo.resnet18),
        "ConvNeXt-Atto, briefly trained": lambda: trained(partial(timm.create_model, "convnext_atto")),
    }
    for name, make in networks.items():
        if options.only in name:
            study(name, make(), images)
    print(f"\n{len(images)} views of {len(PHOTOGRAPHS)} photographs, {SIDE} px, {time.monotonic() - began:.0f} s.")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, default=len(PHOTOGRAPHS) * len(VIEWS), help="just the first so many views"
    )
    parser.add_argument("--only", default="", help="just the networks with this in their names")
    return parser.parse_args()


# Networks and pictures


def photograph(name: str) -> Image.Image:
    return Image.open(Path(str(files("skimage"))) / "data" / name).convert("RGB")


def view(name: str, share: float, place: float, side: int = SIDE) -> Tensor:
    """A square cut from a photograph: 3 x side x side in [0, 1]."""
    whole = photograph(name)
    length = round(min(whole.size) * share)
    left, top = (round((whole_length - length) * place) for whole_length in whole.size)
    square = whole.crop((left, top, left + length, top + length)).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def trained(construct: Callable[..., nn.Module], steps: int = 60, batch: int = 24) -> Network:
    """A network that has learnt to tell from which photograph a random view is cut."""
    module = construct(num_classes=len(PHOTOGRAPHS)).to(memory_format=torch.channels_last)  # pyright: ignore
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    wholes = [ImageOps.contain(photograph(name), (300, 300)) for name in PHOTOGRAPHS]
    random, right = np.random.default_rng(0), 0.0
    mean, std = (torch.tensor(c).view(1, 3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    for _ in range(steps):
        labels = random.integers(0, len(wholes), batch)
        pixels = torch.stack([random_view(wholes[label], random) for label in labels])
        scores = module(((pixels - mean) / std).contiguous(memory_format=torch.channels_last))
        right = 0.9 * right + 0.1 * float((scores.argmax(1).numpy() == labels).mean())
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores, torch.from_numpy(labels)).backward()
        optimizer.step()
    print(f"\n({type(module).__name__}: {steps} steps, {100 * right:.0f} % right at the end)", flush=True)
    return Network(module, IMAGENET_MEAN, IMAGENET_STD, input_side=SIDE)


def random_view(whole: Image.Image, random: np.random.Generator) -> Tensor:
    side = int(min(whole.size) * random.uniform(0.5, 1))
    left, top = (int(random.integers(0, length - side + 1)) for length in whole.size)
    square = whole.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


# The study


def study(name: str, network: Network, images: Tensor) -> None:
    """All that is printed of a network."""
    targets = predict(network, images, batch=BATCH).argmax(1)
    errors: dict[str, dict[int, list[float]]] = {rule: {} for rule in RULES}
    found = integrated_gradients(network, images, targets, torch.zeros_like(images), AttributionParams(), batch=BATCH)
    ratios, true_errors = [], []
    for image, target, result in zip(images, targets.tolist(), found, strict=True):
        table, scores = contributions(network, image, target)
        exact = integral(np.arange(NODES + 1), table)
        size = np.abs(exact).sum()
        for rule, levels in RULES.items():
            for nodes in levels(table, scores):
                error = np.abs(estimate(rule, nodes, table, scores) - exact).sum() / size
                errors[rule].setdefault(len(nodes), []).append(error)
        off = np.abs(result.map.flatten().double().numpy() - exact).sum() / size
        true_errors.append(off)
        ratios.append(result.map_error / off)
    print(f"\n{name}: true error of the map (L1, median and 90th percentile in %), by gradients taken")
    for rule, by_count in errors.items():
        cells = (
            f"{n}: {_percent(each, 50)} {_percent(each, 90)}" for n, each in sorted(by_count.items()) if len(each) > 2
        )
        print(f"  {rule:32}", "   ".join(cells), flush=True)
    tell_of_adaptive(found, np.array(true_errors), np.array(ratios))


def tell_of_adaptive(found: Sequence[Any], true_errors: Vector, ratios: Vector) -> None:
    """Coverage and sharpness of the estimate at the default tolerance."""
    done = np.array([result.converged for result in found])
    spent = np.array([result.evaluations for result in found])
    print(
        f"  adaptive, 5 %: {done.sum()} of {len(done)} converge, {np.mean(spent):.0f} gradients on average (median "
        f"{np.median(spent):.0f}); of those, true error under 5 % in {100 * np.mean(true_errors[done] <= 0.05):.0f} %, "
        f"under the estimate in {100 * np.mean(ratios[done] >= 1):.0f} %; estimate over truth: median "
        f"{np.median(ratios[done]):.2f}, 5th percentile {np.percentile(ratios[done], 5):.2f}, "
        f"95th {np.percentile(ratios[done], 95):.2f}",
        flush=True,
    )


def contributions(network: Network, image: Tensor, target: int) -> tuple[NDArray[np.float32], Vector]:
    """Gradient times (x - x') at 1,025 nodes, (nodes x pixels), and F there."""
    maps, scores = [], []
    for first in range(0, NODES + 1, BATCH):
        shares = torch.arange(first, min(first + BATCH, NODES + 1)) / NODES
        points = (shares.view(-1, 1, 1, 1) * image).contiguous(memory_format=torch.channels_last).requires_grad_()
        values = network(points, [LOGITS])[LOGITS][:, target]
        (gradients,) = torch.autograd.grad(values.sum(), points)
        maps.append((gradients * image).sum(1).flatten(1).numpy())
        scores.append(values.detach().double().numpy())
    return np.concatenate(maps), np.concatenate(scores)


def integral(nodes: NDArray[np.int64], table: NDArray[np.float32]) -> Vector:
    """The trapezoid over these of the nodes."""
    widths = np.diff(nodes) / NODES
    weights = (np.append(widths, 0) + np.append(0, widths)) / 2
    return weights @ table[nodes].astype(np.float64)


def estimate(rule: str, nodes: NDArray[np.int64], table: NDArray[np.float32], scores: Vector) -> Vector:
    """What a rule makes of its nodes."""
    plain = integral(nodes, table)
    if rule == RICHARDSON:
        return 2 * plain - integral(nodes[::2], table)
    return plain + corrections(nodes, table, scores) if rule == BY_SCORES else plain


def corrections(nodes: NDArray[np.int64], table: NDArray[np.float32], scores: Vector) -> Vector:
    """Each interval as if its gradient jumped once, where the known F at its ends says."""
    widths, jumps = np.diff(nodes) / NODES, np.diff(table[nodes].astype(np.float64), axis=0)
    sums = table[nodes].sum(1, dtype=np.float64)
    missing = np.diff(scores[nodes]) - widths * (sums[1:] + sums[:-1]) / 2
    places = np.clip(missing / widths / jumps.sum(1), -0.5, 0.5)
    return (widths * places) @ jumps


Levels = Callable[[NDArray[np.float32], Vector], Iterator[NDArray[np.int64]]]


def graded(power: float) -> Levels:
    """Nodes at (i/n)^power, n doubling."""

    def levels(_table: NDArray[np.float32], _scores: Vector) -> Iterator[NDArray[np.int64]]:
        for n in (16, 32, 64, 128, 256):
            yield np.unique(np.round(NODES * (np.arange(n + 1) / n) ** power).astype(int))

    return levels


def leaning(slope: float) -> Levels:
    """Nodes at slope u + (1 - slope) u^2, u = i/n, n doubling."""

    def levels(_table: NDArray[np.float32], _scores: Vector) -> Iterator[NDArray[np.int64]]:
        for n in (16, 32, 64, 128, 256):
            u = np.arange(n + 1) / n
            yield np.unique(np.round(NODES * (slope * u + (1 - slope) * u**2)).astype(int))

    return levels


def by_score(_table: NDArray[np.float32], scores: Vector) -> Iterator[NDArray[np.int64]]:
    """Nodes at equal distances of |F| travelled, as NUIG has them."""
    travelled = np.append(0, np.abs(np.diff(scores)).cumsum())
    for n in (16, 32, 64, 128, 256):
        yield np.unique(np.searchsorted(travelled, travelled[-1] * np.arange(n + 1) / n).clip(0, NODES))


def greedy(table: NDArray[np.float32], _scores: Vector) -> Iterator[NDArray[np.int64]]:
    """Halve, again and again, the interval over which the map changes most, times its width."""
    nodes = set(range(0, NODES + 1, NODES // 8))

    def interval(first: int, last: int) -> tuple[float, int, int]:
        return -float(np.abs(table[last] - table[first]).sum()) * (last - first), first, last

    heap = [interval(first, first + NODES // 8) for first in range(0, NODES, NODES // 8)]
    heapq.heapify(heap)
    while len(nodes) < 257:
        _, first, last = heapq.heappop(heap)
        if last - first > 1:
            middle = (first + last) // 2
            nodes.add(middle)
            for part in ((first, middle), (middle, last)):
                heapq.heappush(heap, interval(*part))
            if len(nodes) in (17, 33, 65, 129, 257):
                yield np.array(sorted(nodes))


RICHARDSON = "equal, Richardson 2T(2n) - T(n)"
BY_SCORES = "squared, corrected by F"
RULES: dict[str, Levels] = {
    "equal distances": graded(1),
    "power 1.5": graded(1.5),
    "squared": graded(2),
    "u/4 + 3u^2/4": leaning(0.25),
    "u/2 + u^2/2 (the adaptive rule's)": leaning(0.5),
    "square root": graded(0.5),
    "equal steps of |F| (NUIG)": by_score,
    "where the map changes (greedy)": greedy,
    RICHARDSON: graded(1),
    BY_SCORES: graded(2),
}


def _percent(values: Sequence[float], share: float) -> str:
    return f"{100 * np.percentile(values, share):.1f}"


if __name__ == "__main__":
    sys.exit(main())
