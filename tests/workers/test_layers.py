"""Default layers and the answer to a wrong name."""

from __future__ import annotations

import pytest

from workers.errors import ModelError
from workers.layers import LayerInfo, default_layers, unknown_layer
from workers.models import as_network, empty_module, find_architecture
from workers.params import ModelParams


def layers_of(name: str) -> list[LayerInfo]:
    params = ModelParams(name=name, weights="IMAGENET1K_V1")
    architecture = find_architecture(params)
    return as_network(params, architecture, empty_module(architecture)).layers()


@pytest.mark.parametrize(
    "name, dream, content, style",
    [
        ("vgg19", "relu4_4", "relu4_2", ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]),
        ("vgg11_bn", "relu4_2", "relu4_2", ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]),
        ("resnet18", "layer3", "layer2", ["relu", "layer1", "layer2", "layer3"]),
        ("googlenet", "inception4c", "inception3b", ["conv1", "conv3", "inception3b", "inception4e"]),
        ("inception_v3", "Mixed_6c", "Mixed_5d", ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e"]),
        ("mobilenet_v2", "features.10", "features.6", ["features.1", "features.3", "features.6", "features.13"]),
        (
            "regnet_y_400mf",
            "trunk_output.block3",
            "trunk_output.block2",
            ["stem", "trunk_output.block1", "trunk_output.block2", "trunk_output.block3"],
        ),
        ("shufflenet_v2_x0_5", "stage3", "stage2", ["conv1", "stage2", "stage3"]),
    ],
)
def test_defaults_of_the_common_families(name: str, dream: str, content: str, style: list[str]):
    layers = layers_of(name)
    assert default_layers(name, layers, "deepdream") == [dream]
    assert default_layers(name, layers, "content") == [content]
    assert default_layers(name, layers, "style") == style


def test_other_families_are_asked_to_name_layers_they_have():
    layers = layers_of("vit_b_32")
    with pytest.raises(ModelError, match=r"no default style layers for vit_b_32; name some, for example conv_proj"):
        default_layers("vit_b_32", layers, "style")


def test_a_long_list_shows_the_nearest_names_and_the_shallow_ones():
    names = [f"stage{s}.block{b}.conv" for s in range(4) for b in range(40)] + [f"stage{s}" for s in range(4)]
    sentence = str(unknown_layer("stage9", names))
    assert sentence.startswith("unknown layer 'stage9'; nearest: stage")
    assert "has: stage0, stage1, stage2, stage3, and 160 inside these" in sentence
