"""Networks by name: their architecture, preprocessing and class names, and the weights put into them."""

from __future__ import annotations

import importlib
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import chain
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

import torch
import torchvision.models as zoo
from torch import nn
from torchvision.models import WeightsEnum

from workers.checkpoints import Bytes, StateDict, adapt, read_state
from workers.errors import ModelError, first_line
from workers.features import Network
from workers.params import ModelParams
from workers.weights import DEFAULT, PACKAGED, HubEntry, is_file

Colour = tuple[float, float, float]
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
IMAGENET_NAMES: list[str] = zoo.ResNet50_Weights.DEFAULT.meta["categories"]
_OWN_OPTIONS = {
    # the hub's weights of these two expect inputs that the network itself brings into another range
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": False},
}


@dataclass(frozen=True)
class Architecture:
    """A kind of network without its weights.

    `construct` builds it for a number of classes (None: its own). `input_side` is the side in pixels it is used with,
    `categories` and `hub` belong to the weights asked for. `trunk`: those weights have no classifier.
    """

    construct: Callable[[int | None], nn.Module]
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    input_side: int = 224
    categories: Sequence[str] | None = None
    hub: HubEntry | None = None
    trunk: bool = False


def find_architecture(params: ModelParams, *, allow_code: bool = False) -> Architecture:
    """The architecture that `params.name` names. Raises ModelError: unknown name or weights, extra not installed."""
    if params.name.startswith("timm:"):
        found = _from_timm(params.name.removeprefix("timm:"), params.weights)
    elif ":" in params.name:
        found = _from_factory(params.name, params.weights, allow_code=allow_code)
    elif params.name == "efficientnet_lite0":
        found = _efficientnet_lite0(params.weights)
    else:
        found = _from_torchvision(params.name, params.weights)
    if params.preprocess:
        found = replace(found, mean=params.preprocess.mean, std=params.preprocess.std)
    return found


def build_network(
    params: ModelParams,
    weights: Bytes,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    categories: Sequence[str] | None = None,
    allow_code: bool = False,
) -> Network:
    """The network of `params` with the weights of a checkpoint's bytes (bytes, or a 1-D uint8 array), in channels_last.

    `categories` are the class names to use, by default those that belong to the weights. With `dtype` float32 all is
    fp32; with bfloat16 the convolutions are rounded to it. Raises ModelError.
    """
    architecture = find_architecture(params, allow_code=allow_code)
    module = load_state(architecture, read_state(weights), params.name).float()
    module.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return as_network(params, architecture, module, categories=categories, dtype=dtype).to(device)


def as_network(
    params: ModelParams,
    architecture: Architecture,
    module: nn.Module,
    *,
    categories: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Network:
    """`module` with its preprocessing, friendly layer names and class names."""
    return Network(
        module,
        architecture.mean,
        architecture.std,
        name=params.name,
        aliases=vgg_aliases(module) if params.name.startswith("vgg") else None,
        categories=categories if categories is not None else architecture.categories,
        dtype=dtype,
        input_side=architecture.input_side,
    )


def empty_module(architecture: Architecture, classes: int | None = None) -> nn.Module:
    """The module without numbers (on the meta device) if its constructor allows it, else with random ones."""
    try:
        with torch.device("meta"):
            return full_module(architecture, classes)
    except (NotImplementedError, RuntimeError):  # the constructor computes with tensors
        return full_module(architecture, classes)


def full_module(architecture: Architecture, classes: int | None = None) -> nn.Module:
    """The module as its constructor makes it, with as many classes; the trunk alone if the weights have no more."""
    module = architecture.construct(classes)
    return nn.Sequential(OrderedDict(features=module.get_submodule("features"))) if architecture.trunk else module


def load_state(architecture: Architecture, state: StateDict, name: str) -> nn.Module:
    """The module with the tensors of `state` as its parameters.

    Another number of classes than the architecture's own is taken from the state; without a classifier in it the
    module is the trunk (`features`) alone. Raises ModelError if the two don't belong together.
    """
    module = empty_module(architecture)
    state = adapt(state, module)
    if architecture.trunk:
        state = {key: value for key, value in state.items() if key.startswith("features.")}
    elif _is_trunk(state, module):
        architecture = replace(architecture, trunk=True)
    classes = _other_classes(state, module)
    module = empty_module(architecture, classes)
    _assign(state, module, name)
    if any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers())):
        module = full_module(architecture, classes)  # it has buffers that no state dict keeps
        _assign(state, module, name)
    return module


def vgg_aliases(module: nn.Module) -> dict[str, str]:
    """VGG's layer names of the papers (`conv4_2`, `bn4_2`, `relu4_2`, `pool4`) with torchvision's (`features.21`)."""
    aliases: dict[str, str] = {}
    block, convolution = 1, 0
    for index, layer in enumerate(module.get_submodule("features").children()):
        path = f"features.{index}"
        if isinstance(layer, nn.MaxPool2d):
            aliases[f"pool{block}"] = path
            block, convolution = block + 1, 0
            continue
        if isinstance(layer, nn.Conv2d):
            convolution += 1
        kind = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu"}[type(layer)]
        aliases[f"{kind}{block}_{convolution}"] = path
    return aliases


def _from_torchvision(name: str, weights: str) -> Architecture:
    names = zoo.list_models(module=zoo)
    if name not in names:
        near = get_close_matches(name, sorted({*names, *PACKAGED}), n=5, cutoff=0.4)
        raise ModelError(
            f"unknown model {name!r}; "
            + (f"nearest: {', '.join(near)}; " if near else "")
            + "a model is a torchvision classifier, efficientnet_lite0, timm:<name> or package.module:factory"
        )
    choices = zoo.get_model_weights(name)
    chosen = _named(choices, weights, name)
    transform = (chosen or choices["DEFAULT"]).transforms()
    options = dict(_OWN_OPTIONS.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = transform.crop_size[0]
    categories = chosen.meta["categories"] if chosen else None

    def construct(classes: int | None) -> nn.Module:
        return zoo.get_model(name, weights=None, num_classes=classes or len(categories or IMAGENET_NAMES), **options)

    return Architecture(
        construct,
        mean=_colour(transform.mean),
        std=_colour(transform.std),
        input_side=transform.crop_size[0],
        categories=categories,
        hub=None if chosen is None or is_file(weights) else hub_entry(chosen),
        trunk=chosen is not None and categories is None,
    )


def _named(choices: type[WeightsEnum], weights: str, model: str) -> WeightsEnum | None:
    """The hub's weights of that name; for a file the ones it is a copy of, by its name, else None."""
    if is_file(weights):
        name = PurePosixPath(weights).name
        return next((choice for choice in choices if PurePosixPath(choice.url).name == name), None)
    if weights not in choices.__members__:
        known = ", ".join(choices.__members__)
        raise ModelError(f"{model} has no weights called {weights!r}; choose {known}, or a .pth or .safetensors file")
    return choices[weights]


def hub_entry(weights: WeightsEnum) -> HubEntry:
    """Where the hub keeps these weights, and under which licence."""
    licence = weights.meta.get("license", "BSD-3-Clause (torchvision), trained on ImageNet")
    return HubEntry(weights.url, PurePosixPath(weights.url).name, licence)


def _efficientnet_lite0(weights: str) -> Architecture:
    timm = _timm("pip install 'pixgrad[weights]'")
    return Architecture(
        lambda classes: timm.create_model("tf_efficientnet_lite0", num_classes=classes or 1000),
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        categories=IMAGENET_NAMES if weights == DEFAULT else None,
    )


def _from_timm(name: str, weights: str) -> Architecture:
    timm = _timm("pip install 'pixgrad[timm]'")
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        near = get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
        raise ModelError(f"timm has no model {name!r}" + (f"; nearest: {', '.join(near)}" if near else "")) from error
    if not is_file(weights) and weights != DEFAULT:
        raise ModelError(f"timm:{name} takes weights DEFAULT (timm:{name}.<tag> for others) or a file, not {weights!r}")
    hub = None if is_file(weights) else _timm_hub_entry(name, config)
    return Architecture(
        lambda classes: timm.create_model(name, **({"num_classes": classes} if classes else {})),
        mean=_colour(config.mean),
        std=_colour(config.std),
        input_side=config.input_size[1],
        categories=_timm_categories(config) if hub else None,
        hub=hub,
    )


def _timm(mend: str) -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ModelError(f"this network's architecture comes from timm, which isn't installed: {mend}") from error


def _timm_hub_entry(name: str, config: Any) -> HubEntry:
    if config.custom_load or not (config.hf_hub_id or config.url):
        raise ModelError(f"timm:{name} has no weights that can be downloaded as one file; give model.weights a path")
    if not config.hf_hub_id:
        return HubEntry(config.url, PurePosixPath(config.url).name, config.license)
    file = config.hf_hub_filename or "model.safetensors"
    url = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{file}"
    return HubEntry(url, f"{config.hf_hub_id}/{file}".replace("/", "--"), config.license)


def _timm_categories(config: Any) -> list[str] | None:
    data = importlib.import_module("timm.data")
    subset = data.infer_imagenet_subset(config.to_dict())
    if subset is None:
        return None
    info = data.ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(info.num_classes())]


def _from_factory(name: str, weights: str, *, allow_code: bool) -> Architecture:
    if not allow_code:
        raise ModelError(
            f"the model {name!r} is a function of yours that pixgrad would run: allow it with --allow-code"
        )
    if not is_file(weights) and weights != DEFAULT:
        raise ModelError(f"{name} takes weights DEFAULT (what the function returns) or a file, not {weights!r}")

    def construct(_classes: int | None) -> nn.Module:
        with torch.device("cpu"):
            return _call_factory(name)

    return Architecture(construct)


def _call_factory(name: str) -> nn.Module:
    module_name, _, function = name.partition(":")
    torch.manual_seed(0)  # weights left random are then the same on every call
    try:
        module = getattr(importlib.import_module(module_name), function)()
    except Exception as error:
        raise ModelError(
            f"the model function {name} failed with {type(error).__name__}: {first_line(error)}; its module must be "
            "installed, or its folder on PYTHONPATH"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"the model function {name} gave a {type(module).__name__}, not a torch.nn.Module")
    return module


def _colour(values: Sequence[float]) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _is_trunk(state: StateDict, module: nn.Module) -> bool:
    missing = module.state_dict().keys() - state.keys()
    return bool(missing) and all(name.startswith("classifier.") for name in missing) and hasattr(module, "features")


def _other_classes(state: StateDict, module: nn.Module) -> int | None:
    """The number of classes in `state`, if that is all in which its shapes differ from the module's."""
    own = module.state_dict()
    differing = [name for name in own if name in state and own[name].shape != state[name].shape]
    if any(not own[name].ndim or own[name].shape[1:] != state[name].shape[1:] for name in differing):
        return None
    counts = {state[name].shape[0] for name in differing}
    return counts.pop() if len(counts) == 1 else None


def _assign(state: StateDict, module: nn.Module, name: str) -> None:
    try:
        result = module.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        reason = re.search(r"size mismatch for .*", str(error))
        raise ModelError(f"the weights don't fit {name}: {reason.group() if reason else error}") from error
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or result.unexpected_keys:
        found = [
            f"{what} {_some(keys)}"
            for what, keys in (("missing", missing), ("unexpected", result.unexpected_keys))
            if keys
        ]
        raise ModelError(f"the weights don't fit {name}: {'; '.join(found)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
