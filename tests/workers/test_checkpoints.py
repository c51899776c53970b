"""Checkpoints: read without running code, and brought to the names a module knows."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.models as zoo
from PIL import Image
from torch import nn
from torch.nn import functional

from workers.checkpoints import adapt, read_state
from workers.errors import ModelError
from workers.params import ModelParams
from workers.weights import local_weights


def saved(content: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


class Opens:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize(
    "data",
    [
        saved(STATE),
        saved(STATE, _use_new_zipfile_serialization=False),
        saved({"state_dict": STATE, "epoch": 3}),
        saved({"model": STATE}),
        safetensors.torch.save(STATE),
    ],
)
def test_every_kind_of_checkpoint_is_read_from_shared_read_only_bytes(data: bytes):
    array = np.frombuffer(data, dtype=np.uint8)
    assert not array.flags.writeable
    for given in (data, array):
        found = read_state(given)
        assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"weight": torch.ones(1), "extra": bomb}])
@pytest.mark.parametrize("save", [saved, lambda content: pickle.dumps(content, protocol=2)])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(tmp_path: Path, wrap, save):
    trace = tmp_path / "ran"
    data = save(wrap(Opens(trace)))
    with pytest.raises(ModelError) as raised:
        read_state(data)
    assert not trace.exists()
    assert "\n" not in str(raised.value)
    if save is saved:
        assert "they refer to code, " in str(raised.value) and "which is not run" in str(raised.value)
        torch.load(io.BytesIO(data), weights_only=False)
        assert trace.exists(), "the same file, unpickled, would have"


def test_tensors_come_in_one_layout_whatever_the_files():
    assert read_state(saved({"weight": torch.ones(3, 2).t()}))["weight"].is_contiguous()


def test_a_whole_pickled_module_asks_for_its_state_dict():
    with pytest.raises(ModelError, match=r"code, torch\.nn\.modules\.linear\.Linear, .*save module\.state_dict\(\)"):
        read_state(saved(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "data",
    [b"", b"no checkpoint at all", saved(STATE)[:200], safetensors.torch.save(STATE)[:-4], saved([1, 2]), saved({})],
)
def test_what_is_no_checkpoint_is_one_sentence(data: bytes):
    with pytest.raises(ModelError) as raised:
        read_state(data)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "model.module."])
def test_prefixes_of_wrappers_are_dropped(prefix: str):
    assert adapt({prefix + name: value for name, value in STATE.items()}, nn.Linear(3, 2)).keys() == STATE.keys()


def test_old_densenet_names_become_the_new_ones():
    with torch.device("meta"):
        densenet = zoo.densenet121()
    new = densenet.state_dict()
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") for name in new}
    assert old != new.keys()
    assert adapt(dict.fromkeys(old, torch.zeros(1)), densenet).keys() == new.keys()


def test_vgg19_from_keras_gives_the_same_features_as_caffes_own_preprocessing(photographs: dict[str, Path]):
    weights = local_weights(ModelParams(name="vgg19"))
    assert weights is not None
    keras = read_state(weights.read())
    features = zoo.vgg.make_layers(zoo.vgg.cfgs["E"]).eval()
    converted = adapt(dict(keras), nn.Sequential())
    features.load_state_dict({name.removeprefix("features."): value for name, value in converted.items()}, strict=True)
    pixels = torch.tensor(np.asarray(Image.open(photographs["chelsea"]).convert("RGB").crop((80, 40, 272, 232))))
    rgb = pixels.permute(2, 0, 1)[None].double()

    mean, std = (torch.tensor(v).double().view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = rgb.flip(1) - torch.tensor([103.939, 116.779, 123.68]).double().view(1, 3, 1, 1)
    y = (rgb / 255 - mean) / std
    features.double()
    border = 0
    for index, name in ((0, "block1_conv1"), (2, "block1_conv2"), (5, "block2_conv1"), (7, "block2_conv2")):
        if index == 5:
            x, y, border = functional.max_pool2d(x, 2), features[4](y), (border + 1) // 2
        weight = keras[f"{name}_W_table"][keras[f"{name}_W_q"].long()].double()
        x = functional.conv2d(x, weight, keras[f"{name}_b"].double(), padding=1).relu()
        y = features[index + 1](features[index](y))
        border += 1
        inside = (..., slice(border, -border), slice(border, -border))
        assert x[inside].abs().max() > 100
        torch.testing.assert_close(y[inside], x[inside], rtol=1e-5, atol=1e-3)
    assert (x - y).abs().max() > 1e-3, "at the zero-padded border the two differ"
