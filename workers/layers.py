"""Names of layers: what a network has, what a person may have meant, what suits a task by default. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import log2
from typing import Literal

from workers.errors import ModelError

LOGITS = "logits"
"""The name under which a network's class scores are asked for."""

Task = Literal["deepdream", "content", "style"]
TASKS: tuple[Task, ...] = ("deepdream", "content", "style")

# Stages of the common families, as patterns of module paths: the places where a family's own papers name features.
_STAGES = {
    "resnet|resnext|wide_resnet": r"relu|layer[1-4]",
    "regnet": r"stem|trunk_output\.block[1-4]",
    "densenet": r"features\.(relu0|denseblock[1-4])",
    "googlenet": r"conv[123]|inception[345][a-e]",
    "inception_v3": r"Conv2d_\w+|Mixed_\w+",
    "shufflenet": r"conv1|stage[234]",
    "mnasnet": r"layers\.\d+",
    "efficientnet_lite0": r"act1|bn1|blocks\.\d",
    "alexnet|squeezenet|mobilenet|efficientnet|convnext": r"features\.\d+",
}
_LONG_LIST = 60


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a network.

    `name` is the friendly name where there is one, else the module `path`; `kind` the module's class; `channels` and
    `stride` (input pixels to one position, rounded) are those of a B x C x h x w activation at the network's own input
    side, None for any other shape (`LOGITS` has channels, its classes, and no stride); `min_side` is the smallest
    square side in pixels for which the network gets as far as this layer.
    """

    name: str
    path: str
    kind: str
    channels: int | None
    stride: int | None
    min_side: int = 1


def unknown_layer(name: str, names: Sequence[str]) -> ModelError:
    """The error for a layer that a network doesn't have: the nearest names first, then the valid ones."""
    near = get_close_matches(name, names, n=5, cutoff=0.5)
    shown = names if len(names) <= _LONG_LIST else [n for n in names if n.count(".") < 2][:_LONG_LIST]
    rest = len(names) - len(shown)
    return ModelError(
        f"unknown layer {name!r}; "
        + (f"nearest: {', '.join(near)}; " if near else "")
        + f"this network has: {', '.join(shown)}"
        + (f", and {rest} inside these (`pixgrad layers` lists them all)" if rest else "")
    )


def default_layers(model: str, layers: Sequence[LayerInfo], task: Task) -> list[str]:
    """Layer names that suit a task, for the common families of convolutional networks.

    VGG: the layers of Gatys et al. (2016) and Mordvintsev et al. (2015). Other families are read off by stride, as
    VGG's own layers lie: content is the deepest stage at stride 8, style the deepest stages at strides 1 to 16, a dream
    the middle stage at stride 16 (GoogLeNet: inception4c). Raises ModelError for other families, asking for names.
    """
    if model.startswith("vgg"):
        return _vgg_layers({layer.name for layer in layers}, task)
    pattern = next((stages for family, stages in _STAGES.items() if re.match(family, model)), None)
    stages = [layer for layer in layers if pattern and layer.stride and re.fullmatch(pattern, layer.path)]
    by_stride: dict[int, list[str]] = {}
    for layer in stages:
        by_stride.setdefault(2 ** round(log2(layer.stride or 1)), []).append(layer.name)
    if 8 not in by_stride or 16 not in by_stride:
        maps = [layer.name for layer in layers if layer.stride and layer.stride <= 32]
        examples = sorted(maps, key=lambda name: name.count("."))[:8]
        raise ModelError(
            f"there are no default {task} layers for {model}; name some, for example {', '.join(examples)}"
        )
    if task == "deepdream":
        return [by_stride[16][len(by_stride[16]) // 2]]
    if task == "content":
        return [by_stride[8][-1]]
    return [names[-1] for stride, names in sorted(by_stride.items()) if stride <= 16]


def _vgg_layers(names: set[str], task: Task) -> list[str]:
    if task == "style":
        return [f"relu{block}_1" for block in range(1, 6)]
    if task == "content":
        return ["relu4_2"]
    return [max(name for name in names if name.startswith("relu4_"))]
