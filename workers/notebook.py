"""The three algorithms for notebooks: a network by name, pictures as tensors, and the job file's keys as arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from workers.attribution.average import Explanation
from workers.attribution.heatmap import heatmap
from workers.attribution.objective import Target
from workers.attribution.paths import explain
from workers.attribution.predict import predict
from workers.classes import class_index
from workers.codec import decode, to_uint8
from workers.deepdream import DreamResult, deepdream
from workers.description import prepare_model
from workers.dream_objective import StagePlan, guide_features
from workers.features import Network
from workers.layers import Task, default_layers
from workers.models import build_network
from workers.params import AttributionParams, DreamLayer, ImageParams, Layer, ModelParams, Stage, StyleParams
from workers.storage import read_bytes
from workers.style import StyleResult, style_targets
from workers.style import stylise as stylise_all


def load_network(
    name: str = "vgg19",
    weights: str = "DEFAULT",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_code: bool = False,
) -> Network:
    """The frozen network that a job's `model` with this name and these weights has; fetched if it isn't here.

    `dtype`: float32, or bfloat16 for dreams and styles where the device is fast at it. Raises ModelError.
    """
    model = prepare_model(ModelParams(name=name, weights=weights), allow_code=allow_code)
    return build_network(
        model.params,
        model.weights.read(),
        device=device,
        dtype=dtype,
        categories=model.description.categories,
        allow_code=allow_code,
    )


def read_image(uri: str | Path, *, device: torch.device | str = "cpu", **images: Any) -> Tensor:
    """The picture at a path or URI: 1 x 3 x H x W, sRGB in [0, 1], float32, in channels_last.

    `images` are the keys of a job's `images` section (short_side, frame, snap, ...), with `snap` at 1 unless given.
    Raises ImageError, StorageError.
    """
    pixels = decode(read_bytes(str(uri)), ImageParams.model_validate({"snap": 1, **images})).pixels
    return torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float().div(255)


def to_images(images: Tensor) -> list[Image.Image]:
    """Pictures (RGB) of B x 3 x H x W in [0, 1]; values outside are clipped. Raises ImageError for NaN or infinity."""
    return [Image.fromarray(to_uint8(image)) for image in images.detach().permute(0, 2, 3, 1).float().cpu().numpy()]


def draw_map(attribution: Explanation, image: Tensor) -> Image.Image:
    """An attribution's map over its image (3 x H x W in [0, 1]): red is for the class, blue against, with the scale."""
    pixels = to_uint8(image.detach().permute(1, 2, 0).float().cpu().numpy())
    return Image.fromarray(heatmap(attribution.map.float().cpu().numpy(), pixels)[0])


def dream(
    network: Network,
    images: Tensor,
    *,
    guide: Tensor | None = None,
    init: Literal["image", "grey", "noise"] = "image",
    colors: Literal["free", "luminance", "histogram"] = "free",
    seed: int = 0,
    on_step: Callable[[], None] = lambda: None,
    **stage: Any,
) -> DreamResult:
    """Dream `images` (B x 3 x H x W in [0, 1]) in one stage; see `workers.deepdream.deepdream` for what that is.

    `stage` are the keys of a job's stage: layers, class_, octaves, octave_scale, iterations, step, jitter, ..., with
    the same defaults. `guide` (3 x h x w in [0, 1]) is a picture whose features are amplified, in all layers. `on_step`
    is called after every gradient step. Raises ValueError for an unknown key, ModelError for an unknown layer or class.
    """
    params = Stage.model_validate(stage)
    layers = params.layers or []
    index = None
    if params.class_ is not None:
        index = class_index(params.class_, network.classes or 0, network.categories)
    elif not layers:
        layers = [DreamLayer(name=layer.name) for layer in _defaults(network, "deepdream")]
    guides: dict[str, dict[str, Tensor]] = {}
    if guide is not None:
        layers = [layer.model_copy(update={"guide": "given"}) for layer in layers]
        guides = {"given": guide_features(network, guide, layers)}
    plan = StagePlan(params, layers, class_index=index, guides=guides)
    return deepdream(network, images, [plan], _seeds(seed, images), init=init, colors=colors, on_step=on_step)


def stylise(
    network: Network,
    contents: Tensor,
    styles: Tensor | Sequence[Tensor],
    *,
    seed: int = 0,
    on_step: Callable[[], None] = lambda: None,
    **params: Any,
) -> StyleResult:
    """Paint `contents` (B x 3 x H x W in [0, 1]) in the style of others; see `workers.style.stylise`.

    `styles`: one picture for all (1 x 3 x h x w, of any size), or a list with one for each of `contents`. `params` are
    the keys of a job's `style` section but `styles` and `assign`, with the same defaults. `on_step` is called before
    every step. Raises ValueError for an unknown key, or as many styles as don't fit; ModelError for an unknown layer.
    """
    checked = StyleParams.model_validate({"styles": ["given"], **params})
    content_layers = checked.content_layers or _defaults(network, "content")
    style_layers = checked.style_layers or _defaults(network, "style")
    checked = checked.model_copy(update={"content_layers": content_layers, "style_layers": style_layers})
    pictures = [styles] if isinstance(styles, Tensor) else list(styles)
    targets = [style_targets(network, picture, checked) for picture in pictures]
    if len(targets) not in (1, len(contents)):
        raise ValueError(f"give one style for all, or one for each of {len(contents)} contents, not {len(targets)}")
    targets = targets * len(contents) if len(targets) == 1 else targets
    return stylise_all(network, contents, targets, checked, _seeds(seed, contents), on_step=on_step)


def integrated_gradients(
    network: Network,
    images: Tensor,
    targets: Sequence[int | str] | None = None,
    *,
    given: Sequence[Tensor] = (),
    seed: int = 0,
    batch: int = 8,
    on_step: Callable[[], None] = lambda: None,
    **params: Any,
) -> list[Explanation]:
    """Integrated gradients of `images` (B x 3 x H x W in [0, 1]); see `workers.attribution.integrate` for the method.

    `targets`: a class, by index or name, for each image; None for the most probable ones. `params` are the keys of a
    job's `attribution` section but `target`, with the same defaults; of baselines that are images, `given` has those of
    each (k x 3 x H x W). What is random follows from `seed`. `batch` is how many gradients are taken together;
    `on_step` is called after each such evaluation. Raises ValueError for an unknown key, ModelError for a class that
    the network doesn't have.
    """
    checked = AttributionParams.model_validate(params)
    if targets is None:
        chosen = predict(network, images, batch=batch, on_step=on_step).argmax(1).tolist()
    else:
        chosen = [class_index(target, network.classes or 0, network.categories) for target in targets]
    wanted, seeds = [Target(index) for index in chosen], _seeds(seed, images)
    return explain(network, images, wanted, seeds, checked, given=given, batch=batch, on_step=on_step)


def _defaults(network: Network, task: Task) -> list[Layer]:
    return [Layer(name=name) for name in default_layers(network.name, network.layers(), task)]


def _seeds(seed: int, images: Tensor) -> list[int]:
    """One for each image."""
    return [seed + index for index in range(len(images))]
