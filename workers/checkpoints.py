"""From the bytes of a checkpoint to a state dict that fits a module. Code in a checkpoint is never run."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from typing import cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from workers.errors import ModelError

StateDict = dict[str, Tensor]
Bytes = bytes | NDArray[np.uint8]

_NESTED_UNDER = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("model.", "module.", "_orig_mod.")  # left by Lightning, DataParallel, torch.compile, inside each other
_TRAINING_HEADS = ("aux1.", "aux2.", "AuxLogits.")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN_RGB = (123.68, 116.779, 103.939)


def read_state(data: Bytes) -> StateDict:
    """The tensors of a checkpoint by name, from the bytes of a .safetensors file or of one written by `torch.save`.

    torch.save's files are read with weights_only=True: nothing in them is executed. A state dict may lie under
    `state_dict`, `model_state_dict` or `model`. Raises ModelError if there is none.
    """
    if bytes(data[8:9]) == b"{":  # safetensors: the length of the header in 8 bytes, then its JSON
        try:
            return safetensors.torch.load(bytes(data))
        except safetensors.SafetensorError as error:
            raise ModelError(f"the weights are no valid safetensors file: {error}") from error
    try:
        content = torch.load(io.BytesIO(memoryview(cast(bytes, data))), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(
            f"the weights can't be read as tensors alone ({_reason(error)}); save module.state_dict() with torch.save, "
            "or as .safetensors"
        ) from error
    return _tensors(content)


def adapt(state: StateDict, module: nn.Module) -> StateDict:
    """The same tensors under the names that `module` gives them.

    Known: prefixes of wrapped models, torchvision's old DenseNet names, heads used in training only, and the two
    checkpoints that install with pip (`vgg19_from_keras`; EfficientNet-Lite0, whose tensors are timm's in order).
    Raises ModelError.
    """
    if "block1_conv1_W_q" in state:
        return vgg19_from_keras(state)
    expected = module.state_dict().keys()
    if "_conv_stem.weight" in state and len(state) == len(expected):
        return dict(zip(expected, state.values(), strict=True))
    for prefix in _PREFIXES:
        if not state.keys() & expected:
            consume_prefix_in_state_dict_if_present(state, prefix)
    for name in [name for name in state if name.startswith(_TRAINING_HEADS) and name not in expected]:
        del state[name]
    for name in [name for name in state if re.search(r"denselayer\d+\.(norm|conv)\.[12]\.", name)]:
        state[re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name)] = state.pop(name)
    return state


def vgg19_from_keras(state: Mapping[str, Tensor]) -> StateDict:
    """VGG19's `features` under torchvision's names from Keras's, whose convolutions are codes in tables of 256 floats.

    A weight is `table[codes]`. Keras's network (the original Caffe weights) takes BGR in 0..255 less a mean colour,
    torchvision's RGB in [0, 1] normalised by ImageNet's mean and std; so the first convolution's input channels are
    reversed and scaled by 255 std, and what the other mean adds goes into its bias. Exact wherever the kernel lies
    inside the image; on the zero-padded border the padding stands for another grey (less than 0.3 of 255 levels apart).
    """
    position, result = 0, {}
    for block, convolutions in enumerate((2, 2, 4, 4, 4), start=1):
        for name in (f"block{block}_conv{index}" for index in range(1, convolutions + 1)):
            weight = state[f"{name}_W_table"][state[f"{name}_W_q"].long()]
            bias = state[f"{name}_b"]
            if name == "block1_conv1":
                weight, bias = _rgb_in_imagenet_units(weight, bias)
            result |= {f"features.{position}.weight": weight, f"features.{position}.bias": bias}
            position += 2  # the convolution and its ReLU
        position += 1  # the pooling
    return result


def _rgb_in_imagenet_units(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = 255 * torch.tensor(_IMAGENET_MEAN).double(), 255 * torch.tensor(_IMAGENET_STD).double()
    rgb = weight.flip(1).double()
    shift = (mean - torch.tensor(_CAFFE_MEAN_RGB).double()).view(1, 3, 1, 1)
    return (rgb * std.view(1, 3, 1, 1)).float(), (bias.double() + (rgb * shift).sum((1, 2, 3))).float()


def _tensors(content: object) -> StateDict:
    for key in _NESTED_UNDER:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ModelError(f"the weights hold a {type(content).__name__} and no state dict; save module.state_dict()")
    odd = next((name for name, value in content.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise ModelError(f"the weights hold no state dict: {odd!r} is a {type(content[odd]).__name__}, not a tensor")
    for name, tensor in content.items():
        content[name] = tensor.contiguous()  # results to the last bit depend on strides, and a file may hold any
    return content


def _reason(error: Exception) -> str:
    refused = re.search(r"unsupported global:? (?:GLOBAL )?([\w.]+)", str(error), re.IGNORECASE)
    if refused:
        return f"they refer to code, {refused.group(1)}, which is not run"
    return "the file is broken or no checkpoint"
