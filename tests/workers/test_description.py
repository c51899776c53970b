"""What the driver learns of a model without importing torch."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from workers.describe import describe
from workers.description import ModelDescription, PreparedModel, catalogue, prepare_model
from workers.errors import ModelError
from workers.params import Layer, ModelParams
from workers.weights import WeightsFile, local_weights

FACTORY = """
from torch import nn

def net():
    print("a factory may print")
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""


def found_weights(params: ModelParams) -> WeightsFile:
    found = local_weights(params)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def vgg() -> PreparedModel:
    return prepare_model(ModelParams(name="vgg19"))


@pytest.fixture(scope="module")
def lite() -> ModelDescription:
    return TypeAdapter(ModelDescription).validate_python(describe_lite())


def describe_lite(classes: list[str] | None = None) -> dict[str, Any]:
    params = ModelParams(name="efficientnet_lite0", classes="names.txt" if classes else None)
    return describe(params.model_dump(), str(found_weights(params).path), False, classes)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    folder = tmp_path_factory.mktemp("own")
    (folder / "ownnet.py").write_text(FACTORY)
    (folder / "names.txt").write_text("cat\ndog\nfox\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        params = ModelParams(name="ownnet:net", classes=str(folder / "names.txt"))
        return prepare_model(params, allow_code=True)


def test_vgg19_is_described_with_the_weights_it_gets(vgg: PreparedModel):
    description = vgg.description
    assert description.hub is None and description.classes is None
    assert hashlib.sha256(vgg.weights.read().tobytes()).hexdigest() == vgg.weights.sha256
    layer = description.layer("relu4_2")
    assert (layer.path, layer.kind, layer.channels, layer.stride, layer.min_side) == ("features.22", "ReLU", 512, 8, 8)
    assert description.layer("features.22") == layer
    assert description.min_side(["relu1_1", "relu5_1"]) == 16
    assert description.defaults("content") == description.default_layers["content"] == ["relu4_2"]
    with pytest.raises(ModelError, match="these weights have no classifier"):
        description.class_index("tabby")


def test_layers_and_channels_are_checked(vgg: PreparedModel, lite: ModelDescription):
    vgg.description.check_layers([Layer(name="relu5_1", channels=[0, 511])], maps_only=True)
    with pytest.raises(ModelError, match="unknown layer 'relu5_9'; nearest: relu5_"):
        vgg.description.check_layers([Layer(name="relu5_9")])
    with pytest.raises(ModelError, match="channels 0 to 511, not 512"):
        vgg.description.check_layers([Layer(name="relu5_1", channels=[512])])
    with pytest.raises(ModelError, match="no channels x height x width"):
        lite.check_layers([Layer(name="classifier")], maps_only=True)


def test_classes_are_found_by_name_or_index(lite: ModelDescription):
    assert lite.classes == 1000
    assert lite.class_index("Espresso") == lite.class_index(967) == 967
    with pytest.raises(ModelError, match="no class 1000: this network has classes 0 to 999"):
        lite.class_index(1000)
    with pytest.raises(ModelError, match="unknown class 'expresso': the nearest names are espresso"):
        lite.class_index("expresso")
    two_cranes = replace(lite, categories=["crane", *["-"] * 998, "crane"])
    with pytest.raises(ModelError, match="'crane' names the classes 0, 999"):
        two_cranes.class_index("crane")


def test_lite0_comes_with_its_own_preprocessing(lite: ModelDescription):
    assert lite.mean == pytest.approx((127 / 255,) * 3) and lite.std == pytest.approx((128 / 255,) * 3)
    assert lite.input_side == 224 and not lite.fixed_side
    assert lite.defaults("deepdream") == ["blocks.4"]


def test_a_functions_own_weights_are_kept_in_a_file(own: PreparedModel):
    assert own.description.categories == ["cat", "dog", "fox"]
    assert own.weights.path.suffix == ".safetensors" and own.weights.path.is_file()
    assert own.description.min_side(["0"]) == 3
    assert own.description.default_layers == {}
    with pytest.raises(ModelError, match="no default style layers for ownnet:net; name some, for example 0, 1"):
        own.description.defaults("style")


def test_class_names_must_be_as_many_as_classes():
    with pytest.raises(ModelError, match=r"names\.txt names 2 classes, efficientnet_lite0 has 1000"):
        describe_lite(["cat", "dog"])


def test_what_is_wrong_is_the_other_processes_sentence():
    with pytest.raises(ModelError, match=r"^unknown model 'resnett50'; nearest: .*resnet50"):
        prepare_model(ModelParams(name="resnett50"))


def test_the_catalogue_lists_packages_and_hub():
    entries = catalogue()
    assert [(entry.model, entry.path is not None) for entry in entries[:2]] == [
        ("vgg19", True),
        ("efficientnet_lite0", True),
    ]
    resnet = next(entry for entry in entries if (entry.model, entry.weights) == ("resnet50", "IMAGENET1K_V2"))
    assert resnet.source.endswith("resnet50-11ad3fa6.pth")
