"""How far the algorithms are from independent references, on real networks and real photographs. Runs on the CPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from benchmarks._measuring import load
from workers.attribution.baselines import make_baselines
from workers.attribution.integrate import integrated_gradients
from workers.attribution.predict import predict
from workers.codec import decode
from workers.deepdream import deepdream
from workers.dream_objective import StagePlan
from workers.features import Network
from workers.params import AttributionParams, DreamLayer, ImageParams, Stage, StyleParams
from workers.style import style_targets, stylise
from workers.style_losses import StyleLosses, style_target

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
FRAME = (64, 80)
IN_ORDER = [0, 1, 2, 3]
PERMUTED = [2, 0, 3, 1]
COPIED = [1, 2]

NODES = 7  # weights of 1/7 are no dyadic fractions, which would hide rounding
CAPTUMS_NAMES = {
    "left": "riemann_left",
    "right": "riemann_right",
    "middle": "riemann_middle",
    "trapezoid": "riemann_trapezoid",
    "gauss_legendre": "gausslegendre",
}

VGG19_POSITIONS = {  # in torchvision's `features`
    "relu1_1": 1,
    "relu2_1": 6,
    "relu3_1": 11,
    "relu4_1": 20,
    "relu4_2": 22,
    "relu4_4": 26,
    "relu5_1": 29,
}
DREAM_LAYER, CONTENT_LAYER = "relu4_4", "relu4_2"
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE = StyleParams.model_validate(
    {
        "styles": ["photographs"],
        "content_layers": [CONTENT_LAYER],
        "style_layers": STYLE_LAYERS,
        "iterations": 3,
    }
)


class Row(NamedTuple):
    """A line of the table."""

    what: str
    reference: str
    precision: str
    deviation: str


def main() -> int:
    """Print the table, line by line as it is measured."""
    began = time.monotonic()
    frames = photographs()
    vgg19, efficientnet = load("vgg19"), load("efficientnet_lite0")
    vgg19_double, efficientnet_double = deepcopy(vgg19).double(), deepcopy(efficientnet).double()
    print_row(Row("what", "reference", "precision", "deviation"))
    for row in attribution_rows(efficientnet, efficientnet_double, frames):
        print_row(row)
    for row in style_rows(vgg19_double, frames.double()):
        print_row(row)
    print_row(dream_row(vgg19_double, frames.double()))
    algorithms = {
        "deepdream": (dream, vgg19, vgg19_double),
        "style": (paint, vgg19, vgg19_double),
        "integrated gradients": (explain, efficientnet, efficientnet_double),
    }
    for name, (compute, single, double) in algorithms.items():
        for row in companion_rows(name, partial(compute, single, frames), partial(compute, double, frames.double())):
            print_row(row)
    print(
        f"\nThe worst of {len(frames)} photographs, {FRAME[1]} x {FRAME[0]} pixels, on "
        f"efficientnet_lite0 (integrated gradients) and vgg19 (the others), on the CPU. torch {torch.__version__}, "
        f"Captum {version('captum')}, {torch.get_num_threads()} threads, {time.monotonic() - began:.0f} s."
    )
    return 0


def print_row(row: Row) -> None:
    print(f"{row.what:42}  {row.reference:56}  {row.precision:9}  {row.deviation}", flush=True)


def photographs() -> Tensor:
    """The photographs, B x 3 x H x W in [0, 1], float32, in channels_last as the workers have them."""
    params = ImageParams(frame=FRAME)
    folder = files("skimage") / "data"
    pixels = np.stack([decode((folder / name).read_bytes(), params).pixels for name in PHOTOGRAPHS])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch convolves in fp64 on the CPU in pieces so small that more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def relative_l1(value: Tensor, reference: Tensor) -> float:
    """The largest relative L1 distance of any image's values (B x ...) from its reference."""
    distance = (value - reference).abs().flatten(1).sum(1)
    return (distance / reference.abs().flatten(1).sum(1)).max().item()


# -- integrated gradients against Captum ------------------------------------------------------------------------------


def attribution_rows(single: Network, double: Network, frames: Tensor) -> Iterator[Row]:
    """Maps by each fixed rule in fp64 and fp32; and what fp32 does to Captum's own, to judge the latter by."""
    targets = predict(single, frames, batch=1).argmax(1)
    for rule in CAPTUMS_NAMES:
        ours, theirs = our_maps(single, frames, targets, rule), captum_maps(single, frames, targets, rule)
        with one_thread():
            ours_double = our_maps(double, frames.double(), targets, rule)
            theirs_double = captum_maps(double, frames.double(), targets, rule)
        name, scaled = f"integrated gradients, {rule}", ", scaled to sum to 1" if rule == "trapezoid" else ""
        reference = f"Captum, {NODES} nodes{scaled}"
        yield Row(name, reference, "fp64", f"{relative_l1(ours_double, theirs_double):.1e} of the map (L1)")
        yield Row(name, reference, "fp32", f"{relative_l1(ours, theirs):.1e} of the map (L1)")
        yield Row(
            f"Captum, {rule}", "Captum in fp64", "fp32", f"{relative_l1(theirs, theirs_double):.1e} of the map (L1)"
        )


def our_maps(network: Network, images: Tensor, targets: Tensor, rule: str) -> Tensor:
    """Our maps (B x H x W), from the network's mean colour."""
    intervals_or_nodes = NODES - 1 if rule == "trapezoid" else NODES
    params = AttributionParams.model_validate({"rule": {rule: intervals_or_nodes}})
    baselines = make_baselines("mean", images, network.mean)
    found = integrated_gradients(network, images, targets, baselines, params, batch=NODES)
    return torch.stack([attribution.map for attribution in found])


def captum_maps(network: Network, images: Tensor, targets: Tensor, rule: str) -> Tensor:
    """Captum's maps (B x H x W), summed over colour, from the same baseline.

    Its trapezoid gives n nodes the weights of n intervals, so they sum to (n - 1)/n; scaled back here, and only here.
    """
    with captum_in(images.dtype):
        colours = IntegratedGradients(lambda pixels: network.module((pixels - network.mean) / network.std)).attribute(
            images,
            baselines=network.mean.expand_as(images),
            target=targets,
            n_steps=NODES,
            method=CAPTUMS_NAMES[rule],
            internal_batch_size=NODES,
        )
    weights_sum = (NODES - 1) / NODES if rule == "trapezoid" else 1.0
    return colours.detach().sum(1) / weights_sum


@contextmanager
def captum_in(dtype: torch.dtype) -> Iterator[None]:
    """Captum makes its nodes in the default dtype and its weights by `.float()`; inside, both are of `dtype`."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with patch.object(torch.Tensor, "float", lambda tensor: tensor.to(dtype)):
            yield
    finally:
        torch.set_default_dtype(default)


# -- style and dream against the papers' formulas ---------------------------------------------------------------------


def style_rows(network: Network, contents: Tensor) -> Iterator[Row]:
    """The losses and their pixel gradient at a photograph, towards another as content and a third as style."""
    images, styles = contents.roll(1, 0).requires_grad_(), contents.roll(2, 0)
    targets = [style_target(network, style[None], STYLE.style_layers or []) for style in styles]
    content, style, total = StyleLosses.of(network, contents, targets, STYLE)(images)
    (gradient,) = torch.autograd.grad(total.sum(), images)

    expected = [gatys(network, *(part[None] for part in parts)) for parts in zip(images, contents, styles, strict=True)]
    measured = {
        "content loss": (content, "eq. 1 over its value at F = 0"),
        "style loss": (style, "eqs. 3-5 over their value at F = 0"),
        "pixel gradient": (gradient, "eqs. 2 and 6, back to the pixels"),
    }
    for (name, (ours, equations)), formula in zip(measured.items(), zip(*expected, strict=True), strict=True):
        deviation = f"{relative_l1(ours.detach()[:, None], torch.stack(formula)[:, None]):.1e} relative"
        yield Row(f"style, {name}", f"Gatys et al. 2016, {equations}", "fp64", deviation)


def gatys(network: Network, image: Tensor, content: Tensor, style: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Content loss, style loss, and the gradient of their weighted sum in one image's pixels (3 x H x W)."""
    pixels = image.detach().requires_grad_()
    features = vgg19_layers(network, pixels)
    with torch.no_grad():
        in_content, in_style = vgg19_layers(network, content), vgg19_layers(network, style)
        content_loss, in_features = content_term(features[CONTENT_LAYER], in_content[CONTENT_LAYER])
        gradients = {CONTENT_LAYER: STYLE.content_weight * in_features}
        style_loss = torch.zeros_like(content_loss)
        for layer in STYLE_LAYERS:
            loss, in_features = style_term(features[layer], in_style[layer])
            style_loss += loss / len(STYLE_LAYERS)
            gradients[layer] = STYLE.style_weight / len(STYLE_LAYERS) * in_features
    (gradient,) = torch.autograd.grad([features[layer] for layer in gradients], pixels, list(gradients.values()))
    return content_loss, style_loss, gradient[0]


def content_term(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 1 and its gradient in F, equation 2, over the loss at F = 0."""
    at_zero = target.square().sum() / 2
    return (features - target).square().sum() / 2 / at_zero, (features - target) / at_zero


def style_term(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 4 and its gradient in F, equation 6, over the loss at F = 0; both images are of one size."""
    f, s = features[0].flatten(1), target[0].flatten(1)
    n, m = f.shape
    g, a = f @ f.T, s @ s.T
    at_zero = a.square().sum() / (4 * n**2 * m**2)
    loss = (g - a).square().sum() / (4 * n**2 * m**2)
    gradient = (f.T @ (g - a)).T / (n**2 * m**2)
    return loss / at_zero, gradient.view_as(features) / at_zero


def dream_row(network: Network, images: Tensor) -> Row:
    """One step at full size without jitter against x + step / 255 * g / mean|g|, where g has |F|^2 / 2 grow."""
    stage = Stage.model_validate({"octaves": 1, "iterations": 1, "jitter": 0})
    ours = deepdream(network, images, [StagePlan(stage, [DreamLayer(name=DREAM_LAYER)])], IN_ORDER).images
    expected = []
    for image in images:
        pixels = image[None].clone().requires_grad_()
        features = vgg19_layers(network, pixels)[DREAM_LAYER]
        (g,) = torch.autograd.grad(features, pixels, grad_outputs=features.detach())
        expected.append((image + stage.step / 255 * g[0] / g.abs().mean()).clamp(0, 1))
    changes = ours - images, torch.stack(expected) - images
    return Row("deepdream, one step", "the formula", "fp64", f"{relative_l1(*changes):.1e} of the step (L1)")


def vgg19_layers(network: Network, pixels: Tensor) -> dict[str, Tensor]:
    """Features of one run through VGG19, module by module."""
    values, outputs = (pixels - network.mean) / network.std, []
    for module in network.module.get_submodule("features").children():
        values = module(values)
        outputs.append(values)
    return {name: outputs[position] for name, position in VGG19_POSITIONS.items()}


# -- an image and its companions --------------------------------------------------------------------------------------


def companion_rows(
    name: str, single: Callable[[Sequence[int]], Tensor], double: Callable[[Sequence[int]], Tensor]
) -> Iterator[Row]:
    """What becomes of an image alone and in company; `single` and `double` compute a batch of these photographs."""
    with one_thread():
        together = double(IN_ORDER)
        alone = torch.cat([double([i]) for i in IN_ORDER])
    deviation = (alone - together).abs().max() / together.abs().max()
    yield Row(f"{name}, alone", "in a batch of 4", "fp64", f"{deviation:.2g} of the largest value (max)")
    together = single(IN_ORDER)
    yield Row(f"{name}, batch of 4, permuted", "in order", "fp32", differing(single(PERMUTED), together[PERMUTED]))
    copies = torch.cat([single([i] * 4) for i in COPIED])
    expected = together[COPIED].repeat_interleave(4, 0)
    yield Row(f"{name}, batch of 4 copies", "among 3 other images", "fp32", differing(copies, expected))


def differing(values: Tensor, reference: Tensor) -> str:
    """How many of the float32 values differ in any bit."""
    count = (values.contiguous().view(torch.int32) != reference.contiguous().view(torch.int32)).sum()
    return f"{count} of {values.numel()} values differ in a bit"


def dream(network: Network, frames: Tensor, order: Sequence[int]) -> Tensor:
    """Two octaves with jitter."""
    stage = Stage.model_validate({"octaves": 2, "iterations": 2, "jitter": 16})
    return deepdream(network, frames[order], [StagePlan(stage, [DreamLayer(name=DREAM_LAYER)])], order).images


def paint(network: Network, frames: Tensor, order: Sequence[int]) -> Tensor:
    """Each photograph in the style of the one before it."""
    targets = [style_targets(network, frames[i - 1][None], STYLE) for i in order]
    return stylise(network, frames[order], targets, STYLE, order).images


def explain(network: Network, frames: Tensor, order: Sequence[int]) -> Tensor:
    """Maps by the adaptive rule, of the class that each photograph is taken for."""
    images, targets = frames[order], predict(network, frames, batch=1).argmax(1)[order]
    params = AttributionParams.model_validate({"max_evaluations": 17})
    baselines = make_baselines("black", images, network.mean)
    found = integrated_gradients(network, images, targets, baselines, params, batch=len(order))
    return torch.stack([attribution.map for attribution in found])


if __name__ == "__main__":
    sys.exit(main())
