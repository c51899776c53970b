"""What becomes of a gradient on its way to a step: tiles, blur, bands, schedules, smoothness."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from workers.dream_step import ascend, gradient_of, measure, normalised, smoothed, step_factor
from workers.octaves import tile_edges
from workers.params import Stage

GENERATOR = torch.Generator().manual_seed(5)
IMAGES = torch.rand(2, 3, 40, 52, dtype=torch.float64, generator=GENERATOR)
GRADIENT = torch.randn(2, 3, 40, 52, dtype=torch.float64, generator=GENERATOR)


def stage(**values: object) -> Stage:
    return Stage.model_validate(values)


def squares(pixels: Tensor) -> Tensor:
    return pixels.square().mean((1, 2, 3)) / 2


def linear(pixels: Tensor) -> Tensor:
    """Its gradient is `GRADIENT`, whatever the pixels."""
    return (pixels * GRADIENT).sum((1, 2, 3))


@pytest.mark.parametrize("sigma", [0.7, 2.0, 5.5])
def test_smoothing_is_scipys_gaussian(sigma: float) -> None:
    expected = gaussian_filter(GRADIENT.numpy(), sigma, mode="mirror", radius=int(np.ceil(3 * sigma)), axes=(2, 3))
    torch.testing.assert_close(smoothed(GRADIENT, sigma), torch.from_numpy(expected), atol=1e-12, rtol=0)


def test_smoothing_stops_at_nothing_and_at_the_image() -> None:
    assert smoothed(GRADIENT, 0.0) is GRADIENT
    assert smoothed(GRADIENT[..., :3, :4], 10.0).shape == (2, 3, 3, 4)


def test_smoothing_falls_over_the_octave() -> None:
    first, late = (
        ascend(linear, IMAGES, stage(smoothing=3.0, step=0.1), [(0, 0)] * 2, progress=progress)[0]
        for progress in (0.0, 0.99)
    )
    plain, _ = ascend(linear, IMAGES, stage(step=0.1), [(0, 0)] * 2)
    assert torch.equal(late, plain)
    assert (first - IMAGES).diff(dim=3).abs().mean() < 0.5 * (plain - IMAGES).diff(dim=3).abs().mean()


def test_normalising_is_by_each_images_own_size() -> None:
    scaled = GRADIENT * torch.tensor([1e-20, 1e20], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(normalised(scaled, "mean").abs().mean((1, 2, 3)), torch.ones(2).double())
    torch.testing.assert_close(normalised(scaled, "std").std((1, 2, 3), correction=0), torch.ones(2).double())
    torch.testing.assert_close(normalised(scaled, "laplacian").abs().mean((1, 2, 3)), torch.ones(2).double())
    torch.testing.assert_close(normalised(scaled, "laplacian"), normalised(GRADIENT, "laplacian"))
    for by in ("mean", "std", "laplacian"):
        assert torch.equal(normalised(torch.zeros_like(GRADIENT), by), torch.zeros_like(GRADIENT))
        alone = normalised(GRADIENT[1:], by)
        torch.testing.assert_close(normalised(GRADIENT, by)[1:], alone, atol=1e-12, rtol=0)


def test_the_laplacian_pyramid_brings_out_low_frequencies() -> None:
    wave = torch.sin(torch.linspace(0, 2 * torch.pi, 52, dtype=torch.float64)).expand(1, 3, 40, 52)
    mixed = GRADIENT[:1] + 0.1 * wave

    def share_of_wave(gradient: Tensor) -> float:
        return float((gradient * wave).sum() / gradient.norm() / wave.norm())

    assert share_of_wave(normalised(mixed, "laplacian")) > 3 * share_of_wave(mixed)


def test_schedules_fall_from_one_towards_nothing() -> None:
    progress = [i / 10 for i in range(10)]
    assert [step_factor("constant", p) for p in progress] == [1.0] * 10
    for schedule in ("linear", "cosine"):
        factors = [step_factor(schedule, p) for p in progress]
        assert factors[0] == 1 and factors == sorted(factors, reverse=True) and 0 < factors[-1] < 0.11
    stepped, _ = ascend(linear, IMAGES * 0.5 + 0.25, stage(schedule="linear", step=2.0), [(0, 0)] * 2, progress=0.75)
    assert (stepped - IMAGES * 0.5 - 0.25).abs().mean().item() == pytest.approx(0.5 / 255)


def test_total_variation_smooths_what_is_dreamt_and_not_the_photograph() -> None:
    still, _ = ascend(lambda x: 0 * squares(x), IMAGES, stage(tv_weight=1.0), [(0, 0)] * 2, base=IMAGES)
    torch.testing.assert_close(still, IMAGES)
    dreamt = (IMAGES + 0.1 * GRADIENT).clamp(0, 1)
    calmer, _ = ascend(lambda x: 0 * squares(x), dreamt, stage(tv_weight=0.5), [(0, 0)] * 2, base=IMAGES)
    roughness = [(x - IMAGES).diff(dim=2).square().sum() for x in (dreamt, calmer)]
    assert roughness[1] < 0.5 * roughness[0]
    inner = (calmer - IMAGES)[..., 5, 5]
    around = (dreamt - IMAGES)[..., [4, 6, 5, 5], [5, 5, 4, 6]].mean(-1)
    expected = (IMAGES[..., 5, 5] + 0.5 * around + 0.5 * (dreamt - IMAGES)[..., 5, 5]).clamp(0, 1) - IMAGES[..., 5, 5]
    torch.testing.assert_close(inner, expected)


def test_tiles_cover_everything_once_and_are_alike() -> None:
    for length, tile in ((64, 64), (65, 64), (1000, 256), (200, None)):
        edges = tile_edges(length, tile)
        sizes = [b - a for a, b in pairwise(edges)]
        assert edges[0] == 0 and edges[-1] == length
        assert max(sizes) <= (tile or length) and max(sizes) - min(sizes) <= 1


def test_tiles_of_a_local_objective_make_no_difference() -> None:
    images = torch.rand(2, 3, 150, 90, dtype=torch.float64, generator=GENERATOR)
    torch.testing.assert_close(gradient_of(squares, images, 64), gradient_of(squares, images, None))
    torch.testing.assert_close(measure(squares, images, 64), squares(images))


def test_no_more_than_a_tile_is_looked_at() -> None:
    seen: list[tuple[int, ...]] = []

    def spy(pixels: Tensor) -> Tensor:
        seen.append(tuple(pixels.shape))
        return squares(pixels)

    ascend(spy, torch.rand(2, 3, 150, 90), stage(tile=64), [(7, -3), (0, 31)])
    assert len(seen) == 6 and all(shape[:2] == (2, 3) and max(shape[2:]) <= 64 for shape in seen)
