from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from workers import dream_objective
from workers.colors import keep_chroma, match_colors
from workers.deepdream import DreamResult, deepdream
from workers.dream_objective import StagePlan, guide_features, stage_objective
from workers.dream_step import ascend
from workers.errors import ModelError
from workers.features import LOGITS, Network
from workers.models import build_network
from workers.params import DreamLayer, ModelParams, Stage
from workers.weights import local_weights

MEAN, STD = (0.375, 0.5, 0.625), (0.25, 0.3125, 0.25)  # the network keeps float32: these are exact
Array = NDArray[np.float64]


def small_network(dtype: torch.dtype = torch.float64) -> Network:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)]
    aliases = {"conv1": "0", "relu1": "1", "conv2": "3", "relu2": "4"}
    return Network(nn.Sequential(*layers, *head), MEAN, STD, aliases=aliases, input_side=32).to(dtype)


@pytest.fixture(scope="module")
def network() -> Network:
    return small_network()


@pytest.fixture(scope="module")
def vgg19() -> Network:
    weights = local_weights(ModelParams())
    assert weights is not None
    network = build_network(ModelParams(), weights.read())
    network.prune(["relu4_1"])
    return network


@pytest.fixture(scope="module")
def photos(photographs: dict[str, Path]) -> Tensor:
    """Three real photographs, 3 x 3 x 40 x 56 in float64."""
    return torch.cat([photo(photographs[name], 40, 56) for name in ("astronaut", "chelsea", "coffee")])


def photo(path: Path, height: int, width: int) -> Tensor:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BOX), dtype=np.float64)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1).unsqueeze(0)


def plan(*layers: DreamLayer | str, class_index: int | None = None, guide: Any = None, **stage: Any) -> StagePlan:
    named = [DreamLayer(name=layer) if isinstance(layer, str) else layer for layer in layers]
    if guide:
        named = [layer.model_copy(update={"guide": "guide"}) for layer in named]
    values = {"octaves": 2, "iterations": 3, "jitter": 5, **stage}
    return StagePlan(Stage.model_validate(values), named, class_index, {"guide": guide} if guide else {})


def dream(network: Network, images: Tensor, *stages: StagePlan, seeds: Sequence[int] | None = None, **more: Any):
    return deepdream(network, images, stages, list(range(len(images))) if seeds is None else seeds, **more)


# The formula, written again in numpy for a network of one convolution and a ReLU.


def half_mean_square_and_gradient(image: Array, weight: Array, bias: Array) -> tuple[float, Array]:
    """|F|^2 / (2 n) and its gradient in the pixels of one image (3 x H x W)."""
    mean, std = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
    padded = np.pad((image - mean) / std, ((0, 0), (1, 1), (1, 1)))
    features = np.einsum("cyxij,ocij->oyx", sliding_window_view(padded, (3, 3), axis=(1, 2)), weight)
    features = np.maximum(features + bias[:, None, None], 0)
    spread = np.pad(features / features.size, ((0, 0), (1, 1), (1, 1)))
    gradient = np.einsum("oyxij,ocij->cyx", sliding_window_view(spread, (3, 3), axis=(1, 2)), weight[:, :, ::-1, ::-1])
    return float((features**2).sum() / (2 * features.size)), gradient / std


def step_in_numpy(image: Array, step: float, shift: tuple[int, int], weight: Array, bias: Array) -> Array:
    _, gradient = half_mean_square_and_gradient(np.roll(image, shift, axis=(1, 2)), weight, bias)
    gradient = np.roll(gradient, (-shift[0], -shift[1]), axis=(1, 2))
    return np.clip(image + step / 255 * gradient / np.abs(gradient).mean(), 0, 1)


def convolution(network: Network) -> tuple[Array, Array]:
    module = network.module.get_submodule("0")
    assert isinstance(module, nn.Conv2d) and module.bias is not None
    return module.weight.numpy(), module.bias.numpy()


def resize_with_pillow(image: Array, height: int, width: int) -> Array:
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in image]
    return np.stack([np.asarray(c.resize((width, height), Image.Resampling.BICUBIC), np.float64) for c in channels])


def test_one_step_is_the_formula(network: Network, photos: Tensor) -> None:
    objective = stage_objective(network, plan("relu1"), maximise_activation=False)
    shifts = [(3, -4), (0, 0), (-5, 11)]
    stepped, values = ascend(objective, photos, Stage.model_validate({}), shifts)
    rolled = torch.stack([image.roll(shift, (1, 2)) for image, shift in zip(photos, shifts, strict=True)])
    torch.testing.assert_close(values, objective(rolled))
    for image, shift, result, value in zip(photos, shifts, stepped, objective(photos), strict=True):
        expected = step_in_numpy(image.numpy(), 1.5, shift, *convolution(network))
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-12)
        assert value.item() == pytest.approx(
            half_mean_square_and_gradient(image.numpy(), *convolution(network))[0], rel=1e-12
        )


def test_octaves_put_detail_back_as_in_the_formula(network: Network, photos: Tensor) -> None:
    result = dream(network, photos[:1], plan("relu1", octaves=3, iterations=2, jitter=0, step=4))
    image = photos[0].numpy()
    dreamed, detail = image, np.zeros_like(image)
    for height, width in [(20, 29), (29, 40), (40, 56)]:
        base = np.clip(resize_with_pillow(image, height, width), 0, 1)
        dreamed = base + resize_with_pillow(detail, height, width)
        for _ in range(2):
            dreamed = step_in_numpy(dreamed, 4, (0, 0), *convolution(network))
        detail = dreamed - base
    np.testing.assert_allclose(result.images[0].numpy(), dreamed, rtol=0, atol=1e-4)
    assert abs(dreamed - image).mean() > 0.01


def test_one_step_on_vgg19_is_the_formula(photographs: dict[str, Path]) -> None:
    weights = local_weights(ModelParams())
    assert weights is not None
    network = build_network(ModelParams(), weights.read()).double()
    image = photo(photographs["chelsea"], 48, 64)
    result = dream(network, image, plan("relu3_3", octaves=1, iterations=1, jitter=0)).images

    x = image.clone().requires_grad_()
    rgb = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()
    features = (x - rgb[0].view(3, 1, 1)) / rgb[1].view(3, 1, 1)
    for module in list(network.module.get_submodule("features").children())[:16]:
        features = module(features)
    (features.norm() ** 2 / 2).backward()
    assert x.grad is not None
    expected = (image + 1.5 / 255 * x.grad / x.grad.abs().mean()).clamp(0, 1)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


# An image and its companions.


def test_an_image_in_a_batch_is_as_if_alone(network: Network, photos: Tensor) -> None:
    guide = guide_features(network, photos[1], [DreamLayer(name="relu2")])
    stages = [plan("relu1", DreamLayer(name="relu2", weight=3.0)), plan("relu2", guide=guide), plan(class_index=3)]
    mended = {"normalize": "laplacian", "smoothing": 2.0, "tv_weight": 0.1, "schedule": "cosine", "tile": 64}
    stages.append(plan("relu2", **mended))
    together = dream(network, photos, *stages, seeds=[7, 8, 9])
    for i in range(3):
        alone = dream(network, photos[i : i + 1], *stages, seeds=[7 + i])
        assert (alone.images[0] - together.images[i]).abs().max() <= 1e-10
        assert alone.objective_last[0].item() == pytest.approx(together.objective_last[i].item(), rel=1e-10)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_companions_change_no_bit(photos: Tensor, memory_format: torch.memory_format) -> None:
    network = small_network(torch.float32).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    images = photos.float()
    guide = guide_features(network, images[1], [DreamLayer(name="relu2")])
    stages = [plan("relu1", DreamLayer(name="relu2", channels=[1, 5])), plan("relu2", guide=guide)]
    seeds = [7, 8, 9]
    first = dream(network, images, *stages, seeds=seeds)
    for order in ([2, 0, 1], [1, 1, 1], [0, 2, 2]):
        again = dream(network, images[order], *stages, seeds=[seeds[i] for i in order])
        assert torch.equal(again.images, first.images[order])
        assert torch.equal(again.objective_last, first.objective_last[order])


def test_companions_change_no_bit_on_vgg19(vgg19: Network, photographs: dict[str, Path]) -> None:
    images = torch.cat([photo(photographs[name], 48, 48) for name in ("coffee", "rocket")]).float()
    stage = plan("relu4_1", iterations=2)
    first = dream(vgg19, images, stage, seeds=[1, 2]).images
    assert torch.equal(dream(vgg19, images[[1, 0]], stage, seeds=[2, 1]).images, first[[1, 0]])
    assert torch.equal(dream(vgg19, images[[1, 1]], stage, seeds=[2, 2]).images, first[[1, 1]])


def test_an_image_dreams_by_its_own_seed(network: Network, photos: Tensor) -> None:
    same = photos[[0, 0, 0]]
    stage = plan("relu2")
    result = dream(network, same, stage, seeds=[4, 5, 4]).images
    assert torch.equal(result[0], result[2])
    assert not torch.equal(result[0], result[1])
    assert torch.equal(dream(network, same, stage, seeds=[4, 5, 4]).images, result)
    torch.manual_seed(123)
    assert torch.equal(dream(network, same, stage, seeds=[4, 5, 4]).images, result)


def test_jitter_differs_by_stage_and_octave(network: Network, photos: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def spy(objective, images, stage, shifts, **more):
        seen.extend(shifts)
        return ascend(objective, images, stage, shifts, **more)

    monkeypatch.setattr("workers.deepdream.ascend", spy)
    dream(network, photos[:1], plan("relu1", iterations=40, jitter=3), plan("relu1", iterations=40, jitter=3))
    assert {shift for pair in seen for shift in pair} == set(range(-3, 4))
    runs = [tuple(seen[i : i + 40]) for i in range(0, 160, 40)]
    assert len(set(runs)) == 4


# What is climbed.


def test_layers_weigh_by_their_mean(network: Network, photos: Tensor) -> None:
    layers = [
        DreamLayer(name="relu1", weight=2.0),
        DreamLayer(name="conv2", weight=0.5, channels=[3, 0]),
        DreamLayer(name="relu1"),
    ]
    with torch.no_grad():
        activations = network(photos, ["relu1", "conv2"])
    relu1, conv2 = activations["relu1"].numpy(), activations["conv2"].numpy()[:, [3, 0]]
    expected = [1.5 * (a**2).mean() + 0.25 * (b**2).mean() for a, b in zip(relu1, conv2, strict=True)]
    result = dream(network, photos, plan(*layers, iterations=1))
    np.testing.assert_allclose(result.objective_first.numpy(), expected, rtol=1e-12)


def test_only_chosen_channels_are_climbed(network: Network, photos: Tensor) -> None:
    objective = stage_objective(network, plan(DreamLayer(name="relu2", channels=[5])), maximise_activation=False)
    x = photos.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(x).sum(), x)
    y = photos.clone().requires_grad_()
    chosen = network(y, ["relu2"])["relu2"][:, 5]
    (expected,) = torch.autograd.grad((chosen**2).sum() / 2 / chosen[0].numel(), y)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)


def test_a_guide_gives_its_best_matching_vectors(
    network: Network, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = DreamLayer(name="relu2", channels=[0, 2, 9])
    guide = guide_features(network, photos[1, :, :30, :34], [layer])
    assert guide["relu2"].shape == (16, 15 * 17)
    stage = plan(layer, guide=guide)
    x = photos[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(stage_objective(network, stage, maximise_activation=False)(x).sum(), x)

    y = photos[:1].clone().requires_grad_()
    features = network(y, ["relu2"])["relu2"][0, [0, 2, 9]].flatten(1)
    vectors = guide["relu2"][[0, 2, 9]].numpy()
    best = [max(vectors.T, key=lambda g, p=p: float(g @ p)) for p in features.detach().numpy().T]
    (expected,) = torch.autograd.grad(features, y, torch.from_numpy(np.stack(best, 1)) / features.numel())
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-18)

    whole = dream(network, photos, stage).images
    monkeypatch.setattr(dream_objective, "_MATCH_ELEMENTS", 1000)  # the matches are found in blocks
    torch.testing.assert_close(dream(network, photos, stage).images, whole, rtol=0, atol=1e-12)


def test_guided_dreams_come_closer_to_their_guide(network: Network, photos: Tensor) -> None:
    layers = [DreamLayer(name="relu2")]
    stages = [plan(*layers, guide=guide_features(network, image, layers)) for image in photos[:2]]
    by_guide = [dream(network, photos[2:], stage) for stage in stages]
    assert not torch.equal(by_guide[0].images, by_guide[1].images)
    for result in by_guide:
        assert result.objective_last[0] > 1.1 * result.objective_first[0]


@pytest.mark.parametrize("class_index", [0, 4])
def test_a_class_gains(network: Network, photos: Tensor, class_index: int) -> None:
    result = dream(network, photos, plan(class_index=class_index, iterations=5))
    with torch.no_grad():
        before, after = (network(x, [LOGITS])[LOGITS][:, class_index] for x in (photos, result.images))
    torch.testing.assert_close(result.objective_first, before)
    torch.testing.assert_close(result.objective_last, after)
    assert (after > before + 0.02).all()


def test_stages_work_on_the_result_of_the_last(network: Network, photos: Tensor) -> None:
    first, second = plan("relu1", jitter=0), plan("relu2", jitter=0, octaves=3)
    at_once = dream(network, photos, first, second)
    after_first = dream(network, photos, first).images
    assert torch.equal(at_once.images, dream(network, after_first, second).images)
    assert not torch.equal(at_once.images, dream(network, photos, second).images)
    assert torch.equal(at_once.objective_first, dream(network, photos, second).objective_first)
    assert at_once.iterations == 2 * 3 + 3 * 3


def test_layers_guides_neurons_and_a_class_add_up(network: Network, photos: Tensor) -> None:
    guide = guide_features(network, photos[1], [DreamLayer(name="relu2")])
    neuron = DreamLayer(name="relu1", channels=[2, 3], position=(0.5, 1.0), weight=0.7)
    guided = DreamLayer(name="relu2", guide="g", weight=2.0)
    parts = [
        StagePlan(Stage.model_validate({"class_weight": 0.3}), layers, index, {"g": guide})
        for layers, index in (([neuron], None), ([guided], None), ([], 3), ([neuron, guided], 3))
    ]
    values = [stage_objective(network, part, maximise_activation=False)(photos) for part in parts]
    torch.testing.assert_close(values[3], values[0] + values[1] + values[2], rtol=1e-12, atol=0)
    with torch.no_grad():
        activations = network(photos, ["relu1", LOGITS])
    at = activations["relu1"][:, [2, 3], 20, 55]
    torch.testing.assert_close(values[0], 0.7 * at.square().mean(1) / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(values[2], 0.3 * activations[LOGITS][:, 3], rtol=1e-12, atol=0)


def test_a_neuron_moves_only_what_it_sees(network: Network, photos: Tensor) -> None:
    neuron = DreamLayer(name="relu1", position=(0.25, 0.5))
    result = dream(network, photos, plan(neuron, octaves=1, jitter=0))
    changed = (result.images != photos).any(1)
    assert changed[:, 9:12, 27:30].any() and not changed[:, :9].any() and not changed[..., 30:].any()


def test_each_image_of_a_sheet_climbs_its_own_channel(network: Network, photos: Tensor) -> None:
    stage = Stage.model_validate({"octaves": 2, "iterations": 3, "jitter": 5})
    channels = torch.tensor([4, 7, 4])
    sheet = StagePlan(stage, [DreamLayer(name="relu2")], channels=channels)
    together = deepdream(network, photos, [sheet], [0, 1, 2], init="grey")
    for i, channel in enumerate(channels.tolist()):
        own = plan(DreamLayer(name="relu2", channels=[channel]))
        alone = dream(network, photos[i : i + 1], own, seeds=[i], init="grey")
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=1e-10)


def test_large_images_in_tiles_dream_much_the_same(network: Network, photographs: dict[str, Path]) -> None:
    image = photo(photographs["coffee"], 160, 200)
    whole, tiled = (dream(network, image, plan("relu2", tile=tile, jitter=64)) for tile in (None, 64))
    assert tiled.objective_last.item() == pytest.approx(whole.objective_last.item(), rel=0.1)
    together = dream(network, image.expand(2, -1, -1, -1), plan("relu2", tile=64, jitter=64), seeds=[1, 0])
    torch.testing.assert_close(together.images[1], tiled.images[0], rtol=0, atol=1e-10)


def test_colours_are_kept(network: Network, photos: Tensor) -> None:
    free, luminance, histogram = (
        dream(network, photos, plan("relu2", step=4), colors=colors) for colors in ("free", "luminance", "histogram")
    )
    torch.testing.assert_close(luminance.images, keep_chroma(free.images, photos))
    torch.testing.assert_close(histogram.images, match_colors(free.images, photos))
    assert torch.equal(luminance.objective_last, free.objective_last)


# Blank starts.


@pytest.mark.parametrize("init", ["grey", "noise"])
def test_a_blank_start_excites_a_filter(vgg19: Network, init: Literal["grey", "noise"]) -> None:
    images = torch.zeros(1, 3, 64, 64)
    layer = DreamLayer(name="relu4_1", channels=[filter_silent_on_grey(vgg19)])
    result = dream(vgg19, images, plan(layer, iterations=4, jitter=8), init=init)
    others = deepdream(vgg19, images, [plan("relu4_1", iterations=4, jitter=8)], [0], init=init)
    assert mean_activation(vgg19, result, layer) > 10
    assert mean_activation(vgg19, result, layer) > 2 * mean_activation(vgg19, others, layer)
    assert result.objective_last > result.objective_first


def filter_silent_on_grey(network: Network) -> int:
    with torch.no_grad():
        activations = network(torch.full((1, 3, 64, 64), 0.5), ["relu4_1"])["relu4_1"]
    return int((activations.amax((0, 2, 3)) == 0).nonzero()[0])


def mean_activation(network: Network, result: DreamResult, layer: DreamLayer) -> float:
    with torch.no_grad():
        return network(result.images, [layer.name])[layer.name][:, layer.channels].mean().item()


def test_the_gradient_of_a_maximised_filter_is_one(network: Network, photos: Tensor) -> None:
    layer = DreamLayer(name="relu2", channels=[2])
    x = photos.clone().requires_grad_()
    objective = stage_objective(network, plan(layer), maximise_activation=True)
    (gradient,) = torch.autograd.grad(objective(x).sum(), x)
    y = photos.clone().requires_grad_()
    before_relu = network(y, ["conv2"])["conv2"]
    one = torch.zeros_like(before_relu)
    one[:, 2] = 1 / one[0, 0].numel()
    (expected,) = torch.autograd.grad(before_relu, y, one)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-15)


def test_noise_comes_from_the_seed_alone(network: Network, photos: Tensor) -> None:
    silent = plan(DreamLayer(name="relu1", weight=0.0))
    noise = dream(network, photos, silent, seeds=[1, 2, 1], init="noise").images
    assert torch.equal(noise[0], noise[2])
    assert (noise[0] - noise[1]).abs().mean() > 0.05
    assert noise.min() >= 0.4 and noise.max() <= 0.6
    assert (dream(network, photos, silent, init="grey").images == 0.5).all()


# What always holds.


def test_a_photograph_is_dreamed_on(vgg19: Network, photographs: dict[str, Path]) -> None:
    image = photo(photographs["chelsea"], 96, 128).float()
    result = dream(vgg19, image, plan("relu4_1", iterations=5, jitter=16))
    assert result.objective_last[0] > 3 * result.objective_first[0]
    assert result.objective_first.dtype == result.objective_last.dtype == torch.float64
    assert 0.02 < (result.images - image).abs().mean() < 0.2


def test_without_a_gradient_an_image_stays_as_it_is(network: Network, photos: Tensor) -> None:
    result = dream(network, photos, plan(DreamLayer(name="relu1", weight=0.0), octaves=4))
    torch.testing.assert_close(result.images, photos, rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(8, 30),
    width=st.integers(8, 30),
    octaves=st.integers(1, 3),
    scale=st.floats(1.05, 2),
    step=st.floats(0.1, 500),
    jitter=st.integers(0, 40),
)
def test_results_are_images_of_the_same_shape(
    height: int, width: int, octaves: int, scale: float, step: float, jitter: int
) -> None:
    network = small_network(torch.float32)
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height * 31 + width))
    stage = plan("relu2", octaves=octaves, octave_scale=scale, step=step, jitter=jitter, iterations=2)
    steps: list[None] = []
    result = dream(network, images, stage, on_step=lambda: steps.append(None))
    assert result.images.shape == images.shape
    assert result.images.dtype == images.dtype
    assert result.images.min() >= 0 and result.images.max() <= 1
    assert len(steps) == result.iterations == octaves * 2
    assert not result.images.requires_grad
    assert all(math.isfinite(value) for value in result.objective_last)


def test_a_bfloat16_network_dreams_nearly_the_same(photos: Tensor) -> None:
    images = F.interpolate(photos.float(), size=(64, 96))
    stage = plan("relu2", jitter=0)
    exact = dream(small_network(torch.float32), images, stage)
    torch.manual_seed(0)
    module = small_network(torch.float32).module
    halved = Network(module, MEAN, STD, aliases={"relu2": "4"}, dtype=torch.bfloat16, input_side=32)
    result = dream(halved, images, stage)
    assert result.images.dtype == torch.float32
    torch.testing.assert_close(result.objective_last, exact.objective_last, rtol=0.03, atol=0)


def test_what_is_not_there_is_a_model_error(network: Network, photos: Tensor) -> None:
    with pytest.raises(ModelError, match="relu9"):
        dream(network, photos, plan("relu9"))
    with pytest.raises(ModelError, match="channels 0 to 7"):
        dream(network, photos, plan(DreamLayer(name="relu1", channels=[8])))
    with pytest.raises(ModelError, match="logits"):
        dream(network, photos, plan(class_index=5))


def test_a_trace_is_the_objective_on_the_way(network: Network, photos: Tensor) -> None:
    result = dream(network, photos, plan("relu1", octaves=1, iterations=100, jitter=0))
    marks, values = result.trace
    assert marks == list(range(0, 100, 3)) and values.shape == (3, len(marks))
    torch.testing.assert_close(values[:, 0], result.objective_first)
    assert (values.diff(dim=1) > 0).double().mean() > 0.9 and (values[:, -1] < result.objective_last).all()
    assert dream(network, photos, plan("relu1", octaves=2, iterations=3)).trace[0] == [0, 1, 2, 3, 4, 5]
