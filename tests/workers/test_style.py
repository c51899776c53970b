from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from workers.errors import ModelError
from workers.features import Network
from workers.params import Layer, StyleParams
from workers.style import Canvas, Painting, StyleResult, paint, style_targets, stylise
from workers.style_losses import StyleLosses, StyleTarget, blended, gram, style_target, total_variation

CONTENT, STYLE = ["4"], ["0", "1", "4"]
SEEDS = [11, 12, 13]


def small_network(dtype: torch.dtype = torch.float64) -> Network:
    """Two convolutions with smooth rectifiers (finite differences need no kinks) and a pooling between."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Softplus(), nn.AvgPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.Softplus()
    )
    network = Network(module, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return network.to(dtype)


def photograph(name: str, size: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    image = Image.open(str(files("skimage") / "data" / name)).convert("RGB").resize((size[1], size[0]))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(dtype) / 255


@pytest.fixture(scope="module")
def network() -> Network:
    return small_network()


@pytest.fixture(scope="module")
def contents() -> Tensor:
    return torch.cat([photograph(name, (16, 24)) for name in ("astronaut.png", "chelsea.png", "rocket.jpg")])


@pytest.fixture(scope="module")
def targets(network: Network) -> list[StyleTarget]:
    pictures = [
        photograph("coffee.png", (30, 20)),
        photograph("grass.png", (24, 24)),
        photograph("brick.png", (12, 40)),
    ]
    return [style_target(network, picture, params().style_layers or []) for picture in pictures]


def painted(network: Network, contents: Tensor, targets, p: StyleParams, seeds) -> StyleResult:
    """At one scale."""
    return stylise(network, contents, [[target] for target in targets], p, seeds)


def params(**values: object) -> StyleParams:
    defaults = {
        "styles": ["any"],
        "content_layers": CONTENT,
        "style_layers": STYLE,
        "style_weight": 1e3,
        "iterations": 12,
    }
    return StyleParams.model_validate(defaults | values)


# -- Gram matrices and losses against a closed form -------------------------------------------------------------------


def test_gram_is_f_ft_over_its_own_positions():
    features = torch.randn(3, 5, 4, 7, dtype=torch.float64)
    flat = features.numpy().reshape(3, 5, 28)
    expected = np.stack([f @ f.T / 28 for f in flat])
    np.testing.assert_allclose(gram(features).numpy(), expected, atol=1e-12)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(gram(channels_last).numpy(), expected, atol=1e-12)


def test_gram_gradient_of_an_asymmetric_loss():
    features = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: gram(f) * torch.arange(9.0).view(3, 3).to(f), (features,))


def test_gram_accumulates_bfloat16_in_fp32():
    features = torch.rand(1, 8, 10_000).bfloat16()
    product = gram(features)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), gram(features.double()), rtol=1e-5, atol=0)


def test_losses_agree_with_the_closed_form(network: Network, contents: Tensor, targets: list[StyleTarget]):
    p = params(init="noise", content_weight=2.0, style_weight=30.0)
    result = painted(network, contents, targets, p, SEEDS)
    for b in range(3):
        content, style, _ = closed_form(network, result.images[b : b + 1], contents[b : b + 1], targets[b], p)
        assert result.content_loss[b].item() == pytest.approx(content, rel=1e-10)
        assert result.style_loss[b].item() == pytest.approx(style, rel=1e-10)
        assert result.total_loss[b].item() == pytest.approx(2 * content + 30 * style, rel=1e-10)


def closed_form(network: Network, image: Tensor, content: Tensor, target: StyleTarget, p: StyleParams):
    """Gatys' eqs. (1) and (4) in numpy over their values at zero, and the losses' gradients in the layers' features."""
    features = {name: network(image, [name])[name][0].numpy().reshape(-1) for name in {*CONTENT, *STYLE}}
    kept = {name: network(content, [name])[name][0].numpy().reshape(-1) for name in CONTENT}
    content_loss = style_loss = 0.0
    gradients = {name: np.zeros_like(f) for name, f in features.items()}
    for name in CONTENT:
        half_energy = 0.5 * (kept[name] ** 2).sum()
        content_loss += 0.5 * ((features[name] - kept[name]) ** 2).sum() / half_energy / len(CONTENT)
        gradients[name] += p.content_weight * (features[name] - kept[name]) / half_energy / len(CONTENT)
    for name in STYLE:
        a = target.grams[name].numpy()
        f = features[name].reshape(len(a), -1)
        n, m = f.shape
        g = f @ f.T / m
        energy = (a**2).sum() / (4 * n**2)
        style_loss += ((g - a) ** 2).sum() / (4 * n**2) / energy / len(STYLE)
        gradients[name] += p.style_weight * ((f.T @ (g - a)).T / (n**2 * m) / energy / len(STYLE)).reshape(-1)
    return content_loss, style_loss, gradients


def test_pixel_gradient_agrees_with_the_closed_form(network: Network, contents: Tensor, targets: list[StyleTarget]):
    p = params(content_weight=2.0, style_weight=30.0)
    image = photograph("coffee.png", (16, 24)).requires_grad_()
    *_, total = StyleLosses.of(network, contents[:1], targets[:1], p)(image)
    (gradient,) = torch.autograd.grad(total, image)

    features = network(image, STYLE)
    *_, in_features = closed_form(network, image.detach(), contents[:1], targets[0], p)
    seeds = [torch.from_numpy(in_features[name]).view_as(features[name]) for name in STYLE]
    (expected,) = torch.autograd.grad([features[name] for name in STYLE], image, seeds)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_pixel_gradient_agrees_with_finite_differences(network: Network, contents: Tensor, targets: list[StyleTarget]):
    losses = StyleLosses.of(network, contents[:1], targets[:1], params(tv_weight=0.1))
    image = photograph("coffee.png", (16, 24)).requires_grad_()
    (gradient,) = torch.autograd.grad(losses(image)[2], image)
    direction = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plus, minus = (losses(image + sign * 1e-5 * direction)[2] for sign in (1, -1))
    assert ((plus - minus) / 2e-5).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-7)


def test_total_variation_is_over_the_number_of_pixels():
    image = torch.zeros(1, 3, 4, 5)
    image[:, :, :, 2:] = 0.5
    assert total_variation(image).item() == pytest.approx(3 * 4 * 0.25 / 20)


def test_losses_do_not_depend_on_the_scale_of_the_network(contents: Tensor):
    p = params(content_layers=["1"], style_layers=["0", "1"])
    totals = []
    for factor in (1.0, 128.0):
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            parameter.data.copy_(factor * values)
        network = Network(module, (0.5,) * 3, (0.2,) * 3).double()
        target = style_target(network, photograph("coffee.png", (30, 30)), p.style_layers or [])
        totals.append(StyleLosses.of(network, contents[:1], [target], p)(contents[1:2])[2])
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-9, atol=0)


# -- independence of companions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{}, {"optimizer": "adam"}, {"init": "noise", "tv_weight": 0.1}])
def test_an_image_does_not_depend_on_its_companions(
    network: Network, contents: Tensor, targets, values: dict[str, object]
):
    p = params(**values)
    together = painted(network, contents, targets, p, SEEDS)
    for b in range(3):
        alone = painted(network, contents[b : b + 1], [targets[b]], p, [SEEDS[b]])
        torch.testing.assert_close(alone.images[0], together.images[b], atol=1e-9, rtol=0)
        torch.testing.assert_close(alone.total_loss[0], together.total_loss[b], rtol=1e-9, atol=0)


def test_a_permuted_batch_gives_the_same_bits(contents: Tensor):
    network, contents = small_network(torch.float32), contents.float()
    layers = params().style_layers or []
    targets = [style_target(network, photograph(name, (32, 32), torch.float32), layers) for name in
               ("coffee.png", "grass.png", "brick.png")]  # fmt: skip
    order = [2, 0, 1]
    together = painted(network, contents, targets, params(init="noise"), SEEDS)
    permuted = painted(
        network, contents[order], [targets[i] for i in order], params(init="noise"), [SEEDS[i] for i in order]
    )
    assert torch.equal(permuted.images, together.images[order])
    assert torch.equal(permuted.total_loss, together.total_loss[order])


# -- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["content", "noise", "grey"])
def test_style_is_reached_from_every_start(network: Network, contents: Tensor, targets, init: str):
    before = painted(network, contents, targets, params(init=init, iterations=1), SEEDS)
    after = painted(network, contents, targets, params(init=init, iterations=40), SEEDS)
    assert (after.style_loss * 3 < before.style_loss).all()
    check_result(after, contents, 40)


def test_style_loss_falls_by_ten_in_forty_iterations():
    network, content = small_network(torch.float32), photograph("chelsea.png", (64, 80), torch.float32)
    p = params(iterations=40)
    target = style_target(network, photograph("coffee.png", (60, 70), torch.float32), p.style_layers or [])
    _, before, _ = StyleLosses.of(network, content, [target], p)(content)
    assert painted(network, content, [target], p, [0]).style_loss < before / 10


def check_result(result: StyleResult, contents: Tensor, iterations: int) -> None:
    assert result.images.shape == contents.shape
    assert result.images.dtype == contents.dtype
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.iterations == [iterations] * len(contents)
    for loss in (result.content_loss, result.style_loss, result.total_loss):
        assert loss.shape == (len(contents),)
        assert loss.dtype == torch.float64


def test_each_image_goes_to_its_own_style(network: Network, contents: Tensor, targets):
    p = params(iterations=40, content_weight=0.0)
    twins = contents[:1].expand(3, -1, -1, -1)
    result = painted(network, twins, targets, p, SEEDS)
    distance = torch.tensor(
        [
            [(gram(network(image[None], ["4"])["4"])[0] - target.grams["4"]).norm() for target in targets]
            for image in result.images
        ]
    )
    assert distance.argmin(1).tolist() == [0, 1, 2]


def test_noise_comes_from_the_images_own_seed(network: Network, contents: Tensor, targets):
    p = params(init="noise", iterations=1)
    twins, target = contents[:1].expand(2, -1, -1, -1), [targets[0], targets[0]]
    same, other = (painted(network, twins, target, p, seeds).images for seeds in ([5, 5], [5, 6]))
    assert torch.equal(same[0], same[1])
    assert torch.equal(other[0], same[0])
    assert (other[1] - other[0]).abs().mean() > 0.1


def test_only_the_named_channels_count(network: Network, contents: Tensor):
    layer = Layer(name="4", channels=[3, 7])
    target = style_target(network, photograph("coffee.png", (30, 30)), [layer])
    assert target.grams["4"].shape == (2, 2)
    p = params(style_layers=[layer], iterations=20)
    result = painted(network, contents[:1], [target], p, [0])
    features = network(result.images, ["4"])["4"][:, [3, 7]]
    error = (gram(features)[0] - target.grams["4"]).square().sum() / target.grams["4"].square().sum()
    torch.testing.assert_close(result.style_loss[0], error)


def test_total_variation_makes_smoother_pictures(network: Network, contents: Tensor, targets):
    rough, smooth = (
        total_variation(painted(network, contents, targets, params(tv_weight=weight, style_weight=1.0), SEEDS).images)
        for weight in (0.0, 100.0)
    )
    assert (smooth < 0.9 * rough).all()


def test_a_bfloat16_network_gives_nearly_the_same_losses(contents: Tensor):
    content, losses = contents[:1].float(), []
    for dtype in (torch.float32, torch.bfloat16):
        network = small_network(torch.float32)
        network.dtype = dtype
        p = params(iterations=30)
        target = style_target(network, photograph("coffee.png", (30, 30), torch.float32), p.style_layers or [])
        assert target.grams["4"].dtype == torch.float32
        losses.append(painted(network, content, [target], p, [0]).total_loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=0.1, atol=0)


def test_an_unknown_layer_is_a_model_error(network: Network):
    with pytest.raises(ModelError, match="relu9_9"):
        style_target(network, photograph("coffee.png", (30, 30)), [Layer(name="relu9_9", channels=None)])


def test_a_layer_named_twice_is_refused():
    with pytest.raises(ValueError, match="only once"):
        params(style_layers=["0", {"name": "0", "channels": [1]}])


# -- scales, mixtures, statistics, colours ----------------------------------------------------------------------------


def test_the_default_strength_leaves_the_weights_as_they_are(network: Network, contents: Tensor, targets):
    totals = [
        StyleLosses.of(network, contents, targets, params(content_weight=0.0, style_weight=w, strength=s))(contents)[2]
        for w, s in ((3.0, 0.5), (3.0, 0.75), (30.0, 0.5))
    ]
    torch.testing.assert_close(totals[1], 10 * totals[0])
    torch.testing.assert_close(totals[2], 10 * totals[0])


def test_more_strength_means_less_style_loss_and_more_content_loss(network: Network, contents: Tensor, targets):
    results = [
        painted(network, contents, targets, params(style_weight=1.0, iterations=60, strength=s), SEEDS)
        for s in (0, 0.5, 1)
    ]
    for weak, strong in pairwise(results):
        assert (strong.style_loss < weak.style_loss).all()
        assert (strong.content_loss > weak.content_loss).all()


@pytest.mark.parametrize("values", [{"scales": 2}, {"statistics": "covariance"}, {"colors": "luminance", "scales": 2}])
def test_an_image_does_not_depend_on_its_companions_in_any_mode(network: Network, contents: Tensor, values):
    p = params(iterations=8, plateau=0.3, **values)
    pictures = [photograph(name, (30, 20)) for name in ("coffee.png", "grass.png", "brick.png")]
    targets = [style_targets(network, picture, p) for picture in pictures]
    together = stylise(network, contents, targets, p, SEEDS)
    for b in range(3):
        alone = stylise(network, contents[b : b + 1], [targets[b]], p, [SEEDS[b]])
        torch.testing.assert_close(alone.images[0], together.images[b], atol=1e-9, rtol=0)
        assert alone.iterations[0] == together.iterations[b]


def test_scales_go_from_coarse_to_fine_each_from_the_last_result(network: Network, contents: Tensor):
    p, steps = params(iterations=10, scales=3), []
    targets = [style_targets(network, photograph("coffee.png", (30, 20)), p)] * 3
    assert [len(target) for target in targets] == [3] * 3
    sides: list[int] = []

    class Spy(Network):
        def forward(self, pixels: Tensor, layers):
            sides.append(pixels.shape[2])
            return super().forward(pixels, layers)

    spy = Spy(network.module, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).double()
    result = stylise(spy, contents, targets, p, SEEDS, on_step=lambda: steps.append(None))
    assert sides == [4] * 12 + [8] * 12 + [16] * 12  # features of the content, the start, ten steps
    assert len(steps) == 33 and result.iterations == [30] * 3
    check_result(result, contents, 30)


def test_each_scale_can_have_a_number_of_iterations_of_its_own(network: Network, contents: Tensor):
    p = params(iterations=[40, 7], scales=2)
    targets = [style_targets(network, photograph("coffee.png", (30, 20)), p)] * 3
    result = stylise(network, contents, targets, p, SEEDS)
    assert result.iterations == [47] * 3
    for trace in result.traces:
        assert [iteration for iteration, _ in trace] == [*range(0, 41, 2), *range(40, 48)]


def test_a_mixture_is_the_average_of_moments(network: Network):
    layers = params().style_layers or []
    pictures = [photograph(name, (16, 16)) for name in ("coffee.png", "grass.png")]
    a, b = (style_target(network, picture, layers) for picture in pictures)
    mixed = blended([a, b], [3.0, 1.0])
    for name in STYLE:
        torch.testing.assert_close(mixed.grams[name], 0.75 * a.grams[name] + 0.25 * b.grams[name])
        torch.testing.assert_close(mixed.means[name], 0.75 * a.means[name] + 0.25 * b.means[name])


def test_a_painting_in_a_mixture_lies_between_its_styles(network: Network, contents: Tensor, targets):
    p, mixed = params(iterations=60, content_weight=0.0), blended(targets[:2], [1.0, 1.0])
    image = painted(network, contents[:1], [mixed], p, [0]).images
    distances = [StyleLosses.of(network, contents[:1], [t], p)(image)[1].item() for t in (mixed, *targets[:2])]
    assert distances[0] < 0.1 * min(distances[1:])


def test_covariances_agree_with_numpy(network: Network, contents: Tensor, targets: list[StyleTarget]):
    image = photograph("coffee.png", (16, 24))
    _, style, _ = StyleLosses.of(network, contents[:1], targets[:1], params(statistics="covariance"))(image)
    picture = photograph("coffee.png", (30, 20))  # the first target's
    expected = 0.0
    for name in STYLE:
        f, s = (network(x, [name])[name][0].flatten(1).numpy() for x in (image, picture))
        for value, wanted in ((f.mean(1), s.mean(1)), (np.cov(f, bias=True), np.cov(s, bias=True))):
            expected += ((value - wanted) ** 2).sum() / (wanted**2).sum() / 2 / len(STYLE)
    assert style.item() == pytest.approx(expected, rel=1e-9)


def test_the_chroma_is_the_contents(network: Network, contents: Tensor, targets):
    free, kept = (painted(network, contents, targets, params(colors=colors), SEEDS) for colors in ("free", "luminance"))
    assert torch.equal(kept.total_loss, free.total_loss)
    chroma = (kept.images - contents).clamp(-1, 1)
    inside = ((kept.images > 0) & (kept.images < 1)).all(1)
    assert inside.double().mean() > 0.5
    assert (chroma[:, 0] - chroma[:, 1])[inside].abs().max() < 1e-9


def test_a_plateau_saves_iterations(network: Network, contents: Tensor, targets):
    result = painted(network, contents, targets, params(iterations=400, plateau=0.2), SEEDS)
    assert max(result.iterations) < 200
    check_losses = painted(network, contents, targets, params(iterations=max(result.iterations)), SEEDS)
    assert (result.total_loss <= 1.5 * check_losses.total_loss).all()


@pytest.mark.parametrize("values", [{}, {"scales": 2, "optimizer": "adam"}, {"scales": 2, "init": "noise"}])
def test_who_is_done_makes_room_and_nobody_notices(contents: Tensor, values: dict[str, object]):
    """Nine canvases at three places, each done at a time of its own, are bit for bit what they are without others."""
    network, p = small_network(torch.float32), params(iterations=60, plateau=0.03, style_weight=5.0, **values)
    pictures = [photograph(name, (30, 20), torch.float32) for name in ("coffee.png", "grass.png", "brick.png")]
    targets = [style_targets(network, picture, p) for picture in pictures]
    canvases = [Canvas(contents[i % 3].float(), targets[i // 3], seed=i) for i in range(9)]

    def steps_of(canvases: Sequence[Canvas]) -> tuple[dict[Canvas, Painting], int]:
        waiting, steps = list(canvases), list[None]()

        def supply(most: int) -> list[Canvas]:
            taken, waiting[:] = waiting[:most], waiting[most:]
            return taken

        lots = paint(network, supply, p, batch=3, on_step=lambda: steps.append(None))
        return dict(chain.from_iterable(lots)), len(steps)

    together, steps = steps_of(canvases)
    alone = [steps_of([canvas]) for canvas in canvases]
    for canvas, (found, _) in zip(canvases, alone, strict=True):
        assert torch.equal(together[canvas].image, found[canvas].image)
        assert together[canvas].trace == found[canvas].trace and together[canvas].iterations == found[canvas].iterations
    lengths = [length for _, length in alone]
    in_threes = sum(max(lengths[first : first + 3]) for first in range(0, 9, 3))
    assert len(set(lengths)) > 1 and sum(lengths) / 3 <= steps <= in_threes
    if p.scales == 1:
        assert steps < in_threes, "as batches would take that wait for their slowest"


def test_nobody_is_asked_for_before_there_is_room(network: Network, contents: Tensor):
    p = params(iterations=3, scales=2)
    targets = style_targets(network, photograph("coffee.png", (30, 20)), p)
    waiting, painted = [Canvas(content, targets, 0) for content in contents], list[int]()

    def supply(most: int) -> list[Canvas]:
        assert most == 0 or len(waiting) + len(painted) == 3, "none is under way"
        return [waiting.pop() for _ in range(min(most, len(waiting)))]

    for lot in paint(network, supply, p, batch=1):
        painted.append(len(lot))
    assert painted == [1, 1, 1]


def test_a_trace_is_the_loss_on_the_way(network: Network, contents: Tensor):
    p = params(iterations=45, scales=2)
    targets = [style_targets(network, photograph("coffee.png", (30, 20)), p)] * 3
    result = stylise(network, contents, targets, p, SEEDS)
    marks = [*range(0, 45, 3), 45]
    for b, trace in enumerate(result.traces):
        assert [iteration for iteration, _ in trace] == [*marks, *(45 + mark for mark in marks)]
        losses = [loss for _, loss in trace]
        for scale in (losses[:16], losses[16:]):
            assert scale == sorted(scale, reverse=True) and scale[-1] < scale[0]
        assert losses[-1] == pytest.approx(result.total_loss[b].item(), rel=1e-6)
        start = StyleLosses.of(network, contents[b : b + 1], [targets[b][1]], p)(contents[b : b + 1])[2]
        assert losses[16] != start, "the fine scale begins with the coarse one's result"


@pytest.mark.parametrize("weights", [(1e12, 1e-12, 0.0), (1e-12, 1e12, 0.0), (1e-9, 1e-9, 1e-9), (0.0, 1.0, 1e9)])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_no_weights_make_the_loss_diverge_or_stall(contents: Tensor, weights, optimizer: str):
    network = small_network(torch.float32)
    p = params(**dict(zip(("content_weight", "style_weight", "tv_weight"), weights, strict=True)), iterations=30,
               optimizer=optimizer, init="noise")  # fmt: skip
    target = style_target(network, photograph("coffee.png", (30, 30), torch.float32), p.style_layers or [])
    first, last = (
        painted(network, contents[:1].float(), [target], p.model_copy(update={"iterations": n}), [3]) for n in (1, 30)
    )
    assert last.total_loss.isfinite().all()
    assert (last.total_loss < 0.7 * first.total_loss).all()


def test_weights_that_make_no_loss_are_refused():
    for values, sentence in (
        ({"content_weight": 0.0, "style_weight": 0.0}, "nothing to paint"),
        ({"style_layers": [{"name": "0", "weight": -1}]}, "minimum"),
        ({"style_weight": 1e13}, "less than or equal"),
        ({"blend": [1.0], "assign": "cycle"}, "the one style"),
        ({"blend": [0.0, 0.0]}, "all 0"),
        ({"iterations": [10, 20]}, "lists 2 numbers and scales is 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            params(**values)
