from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from scipy.linalg import sqrtm
from skimage.color import rgb2yiq
from torch import Tensor

from workers.colors import keep_chroma, match_colors


def photographs() -> tuple[Tensor, Tensor]:
    """Two pairs of real photographs, muted, so that little is clipped."""
    folder = files("skimage") / "data"
    pictures = []
    for name in ("coffee.png", "chelsea.png", "astronaut.png", "rocket.jpg"):
        with Image.open(str(folder / name)) as image:
            pixels = np.asarray(image.convert("RGB").resize((40, 30)), dtype=np.float64) / 255
        pictures.append(torch.from_numpy(0.4 + 0.2 * pixels).permute(2, 0, 1))
    return torch.stack(pictures[:2]), torch.stack(pictures[2:])


def as_yiq(image: Tensor) -> np.ndarray:
    return rgb2yiq(image.permute(1, 2, 0).numpy())


def test_luminance_comes_from_one_and_chroma_from_the_other() -> None:
    images, originals = photographs()
    for image, original, result in zip(images, originals, keep_chroma(images, originals), strict=True):
        np.testing.assert_allclose(as_yiq(result)[..., 0], as_yiq(image)[..., 0], atol=1e-6)
        np.testing.assert_allclose(as_yiq(result)[..., 1:], as_yiq(original)[..., 1:], atol=2e-3)


def test_matched_colours_have_the_originals_mean_and_covariance() -> None:
    images, originals = photographs()
    for result, original in zip(match_colors(images, originals), originals, strict=True):
        pixels, wanted = result.flatten(1).numpy(), original.flatten(1).numpy()
        np.testing.assert_allclose(pixels.mean(1), wanted.mean(1), atol=1e-6)
        np.testing.assert_allclose(np.cov(pixels), np.cov(wanted), atol=2e-5)


def test_matching_is_the_formula() -> None:
    images, originals = photographs()
    pixels, wanted = images[0].flatten(1).numpy(), originals[0].flatten(1).numpy()
    covariances = [np.cov(p, bias=True) + 1e-5 * np.eye(3) for p in (wanted, pixels)]
    transform = sqrtm(covariances[0]) @ np.linalg.inv(sqrtm(covariances[1]))
    expected = transform @ (pixels - pixels.mean(1, keepdims=True)) + wanted.mean(1, keepdims=True)
    result = match_colors(images[:1], originals[:1])[0].flatten(1).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-9)


def test_pictures_of_one_colour_are_no_trouble() -> None:
    _, originals = photographs()
    plain = torch.full_like(originals, 0.3)
    torch.testing.assert_close(match_colors(originals, plain), plain, atol=0.02, rtol=0)
    means = originals.mean((2, 3), keepdim=True).expand_as(plain)
    torch.testing.assert_close(match_colors(plain, originals), means, atol=1e-6, rtol=0)
    torch.testing.assert_close(keep_chroma(originals, originals), originals)
