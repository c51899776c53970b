from __future__ import annotations

import pytest
import torch

from workers.attribution.baselines import BLUR_SIGMA, image_baselines, make_baselines
from workers.params import AttributionParams

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
KINDS = ("black", "white", "mean", "blur")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_baseline_is_an_image_like_the_image(kind, dtype, photographs):
    images = photographs(64).to(dtype)[..., :40]
    baselines = make_baselines(kind, images, MEAN)
    assert (baselines.shape, baselines.dtype) == (images.shape, images.dtype)
    assert baselines.min() >= 0
    assert baselines.max() <= 1


def test_constant_baselines_are_their_colour_in_pixel_space(photographs):
    images = photographs(32)
    assert (make_baselines("black", images, MEAN) == 0).all()
    assert (make_baselines("white", images, MEAN) == 1).all()
    assert (make_baselines("mean", images, MEAN) == MEAN).all()


def test_the_blur_leaves_the_layout_of_colours_and_no_detail(photographs):
    images = photographs(96)
    blurred = make_baselines("blur", images, MEAN)
    detail = (blurred[..., 1:] - blurred[..., :-1]).abs().mean() / (images[..., 1:] - images[..., :-1]).abs().mean()
    coarse = [torch.nn.functional.avg_pool2d(x, 48).flatten() for x in (images, blurred)]
    assert detail < 0.25
    assert torch.corrcoef(torch.stack(coarse))[0, 1] > 0.9


def test_the_blur_is_a_gaussian_of_the_stated_width():
    point = torch.zeros(1, 3, 101, 121, dtype=torch.float64)
    point[..., 50, 60] = 1
    response = make_baselines("blur", point, MEAN)[0, 0]
    sigma = BLUR_SIGMA * 101
    for dy, dx in ((0, 5), (7, 0), (10, 12)):
        expected = torch.exp(torch.tensor(-(dy**2 + dx**2) / (2 * sigma**2), dtype=torch.float64))
        assert response[50 + dy, 60 + dx] / response[50, 60] == pytest.approx(
            float(expected), rel=1e-4
        )  # each row sums to 1


def test_the_blur_keeps_an_even_colour_up_to_the_border():
    even = torch.full((2, 3, 20, 30), 0.7)
    assert make_baselines("blur", even, MEAN).sub(0.7).abs().max() < 1e-7


def test_a_baseline_does_not_depend_on_its_companions(photographs):
    images = photographs(64)
    together = make_baselines("blur", images, MEAN)
    assert torch.equal(together[1:2], make_baselines("blur", images[1:2], MEAN))
    assert torch.equal(together.flip(0), make_baselines("blur", images.flip(0), MEAN))


# Several baselines, drawn and given


def draw(wanted, image, seed=3, given=()):
    params = AttributionParams.model_validate({"baseline": wanted})
    return image_baselines(params.baselines, image, mean=torch.full((3,), 0.4), given=given, seed=seed)


def test_a_list_of_baselines_comes_in_its_order(photographs):
    image = photographs(32)[0]
    given = [photographs(32)[1:]]
    found = draw(["black", {"image": "refs/*.jpg"}, {"uniform": 2}, "mean"], image, given=given)
    assert found.shape == (6, 3, 32, 32)
    assert (found[0] == 0).all() and torch.equal(found[1:3], given[0]) and (found[5] == 0.4).all()
    assert found[3:5].min() >= 0 and found[3:5].max() <= 1 and not torch.equal(found[3], found[4])


def test_noise_follows_the_seed_and_nothing_else(photographs):
    images = photographs(32)
    for wanted in ("uniform", {"gaussian": 2, "sigma": 0.2}):
        assert torch.equal(draw(wanted, images[0]), draw(wanted, images[0]))
        assert not torch.equal(draw(wanted, images[0]), draw(wanted, images[0], seed=4))
    around = draw({"gaussian": 8, "sigma": 0.1}, images[0]) - images[0]
    assert 0.05 < float(around.std()) < 0.1, "clipping takes some of the noise away"
