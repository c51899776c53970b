"""DeepDream beside the network's own speed: octaves, jitter and steps against the plain forward and input gradient.

(a) seconds of a whole dream over those that its gradients alone take at the same sizes in the best layout, precision
and form of the network, as it is or with BatchNorm folded; (b) collections of mixed frames beside one of equal frames,
by pixels a second. VGG19 and EfficientNet-Lite0; dreams in bf16, as jobs have it where the CPU is fast at that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import interpolate

sys.path.remove(str(Path(__file__).resolve().parent))  # as in benchmarks/pipeline.py

from benchmarks._measuring import load, row, seconds
from benchmarks.rules import view
from workers.deepdream import deepdream
from workers.dream_objective import StagePlan, stage_objective
from workers.features import Network
from workers.folding import working_form
from workers.octaves import octave_sizes
from workers.params import DreamLayer, Stage

PHOTOGRAPH = "astronaut.png"
LAYERS = {"vgg19": "relu4_4", "efficientnet_lite0": "blocks.3"}
STAGE = {"octaves": 4, "octave_scale": 1.4, "iterations": 10, "jitter": 32}
JOBS = "bf16, folded"
"""The form of the network that a job has on a CPU which is fast at bf16."""

FRAMES = ((256, 256), (192, 256), (256, 384), (320, 208))
"""Of the mixed collection; the equal one has as many images of the first."""


def main() -> int:
    """Print the table."""
    options = arguments()
    print(f"{options.side} px, {torch.get_num_threads()} CPU threads, torch {torch.__version__}; of each dream "
          f"{STAGE['octaves']} octaves of {STAGE['iterations']} iterations\n")  # fmt: skip
    for name, layer in LAYERS.items():
        forms = {
            f"{precision}{', folded' if fold else ''}": network(name, layer, precision, fold=fold)
            for precision in ("bf16", "fp32")
            for fold in (False, True)
        }
        measure_dream(name, layer, forms, options)
        measure_frames(name, layer, forms[JOBS], options)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def network(name: str, layer: str, precision: str, *, fold: bool) -> Network:
    """A network cut behind a layer, as it is or as jobs have it."""
    if fold:
        return working_form(load(name), [layer], "max", precision)
    made = load(name, torch.bfloat16 if precision == "bf16" else torch.float32)
    made.prune([layer])
    return made


def measure_dream(name: str, layer: str, forms: Mapping[str, Network], options: argparse.Namespace) -> None:
    """(a): the floor is the fastest of the network's forms and of the two layouts, at the dream's own sizes."""
    image = view(PHOTOGRAPH, 1.0, 0.5, options.side)[None]
    dreams, floors = list[float](), dict[str, list[float]]()
    for _ in range(options.repeats):
        for form, network in forms.items():
            for layout in (torch.channels_last, torch.contiguous_format):
                took = sum(gradients_alone(network, layer, image, layout))
                floors.setdefault(f"{form}, {str(layout).removeprefix('torch.')}", []).append(took)
        dreams.append(seconds(partial(dream, forms[JOBS], layer, image)))
    best = min(floors, key=lambda each: median(floors[each]))
    ratio = median(floor / took for floor, took in zip(floors[best], dreams, strict=True))
    steps = STAGE["octaves"] * STAGE["iterations"]
    row(f"{name}: plain gradients of a dream, the best way", f"{median(floors[best]):.2f} s ({best})")
    row(
        f"{name}: the dream",
        f"{median(dreams):.2f} s, {1000 * median(dreams) / steps:.0f} ms a step: {ratio:.2f}",
        "0.9",
    )


def gradients_alone(network: Network, layer: str, image: Tensor, layout: torch.memory_format) -> list[float]:
    """Seconds of the same objective's gradients at each octave's size, without all that a dream does besides."""
    objective = stage_objective(network, plan(layer), maximise_activation=False)
    found = []
    height, width = image.shape[-2:]
    for size in octave_sizes(height, width, int(STAGE["octaves"]), float(STAGE["octave_scale"])):
        pixels = interpolate(image, size).contiguous(memory_format=layout).requires_grad_()
        torch.autograd.grad(objective(pixels).sum(), pixels)
        for _ in range(int(STAGE["iterations"])):
            found.append(seconds(lambda pixels=pixels: torch.autograd.grad(objective(pixels).sum(), pixels)))
    return found


def plan(layer: str) -> StagePlan:
    return StagePlan(Stage.model_validate(STAGE), [DreamLayer(name=layer)])


def dream(network: Network, layer: str, image: Tensor) -> Tensor:
    pixels = image.contiguous(memory_format=torch.channels_last)
    return deepdream(network, pixels, [plan(layer)], [0]).images


def measure_frames(name: str, layer: str, network: Network, options: argparse.Namespace) -> None:
    """(b), one image after the other, as a worker on a CPU has them."""
    rates: list[Sequence[float]] = []
    for _ in range(options.repeats):
        rates.append([rate(network, layer, frames) for frames in ([FRAMES[0]] * len(FRAMES), FRAMES)])
    ratio = median(mixed / equal for equal, mixed in rates)
    row(f"{name}: mixed frames over equal ones, pixels a second", f"{ratio:.2f}", "0.8")


def rate(network: Network, layer: str, frames: Sequence[tuple[int, int]]) -> float:
    images = [interpolate(view(PHOTOGRAPH, 1.0, 0.5, 256)[None], frame) for frame in frames]
    took = seconds(lambda: [dream(network, layer, image) for image in images])
    return sum(height * width for height, width in frames) / took


if __name__ == "__main__":
    sys.exit(main())
