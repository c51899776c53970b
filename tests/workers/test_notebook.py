"""The algorithms with a network by name and the job file's keys as arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from workers import notebook
from workers.attribution.baselines import make_baselines
from workers.attribution.integrate import integrated_gradients
from workers.errors import ModelError
from workers.features import LOGITS, Network
from workers.params import AttributionParams


@pytest.fixture(scope="module")
def network() -> Network:
    return notebook.load_network("efficientnet_lite0")


@pytest.fixture(scope="module")
def photo(photographs: dict[str, Path]) -> torch.Tensor:
    return notebook.read_image(photographs["chelsea"], short_side=64)


def test_pictures_go_through_tensors_unchanged(photographs: dict[str, Path]) -> None:
    read = notebook.read_image(photographs["chelsea"], short_side=300)
    [back] = notebook.to_images(read)
    with Image.open(photographs["chelsea"]) as original:
        assert np.array_equal(np.asarray(back), np.asarray(original.convert("RGB")))
    assert read.shape == (1, 3, 300, 451) and read.is_contiguous(memory_format=torch.channels_last)


def test_a_dream_by_layer_by_guide_and_by_class(network: Network, photo: torch.Tensor) -> None:
    kept: dict[str, Any] = {"octaves": 1, "iterations": 1, "jitter": 0}
    default = notebook.dream(network, photo, **kept)
    by_name = notebook.dream(network, photo, layers=["blocks.3"], **kept)
    guided = notebook.dream(network, photo, guide=photo[0].flip(2), layers=["blocks.3"], **kept)
    tabby = notebook.dream(network, photo, class_="tabby", **kept)
    results = [result.images for result in (default, by_name, guided, tabby)]
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])
    with torch.no_grad():
        assert tabby.objective_first.item() == network(photo, [LOGITS])[LOGITS][0, 281].item()


def test_one_style_is_for_all(network: Network, photo: torch.Tensor) -> None:
    contents = torch.cat([photo, photo.flip(3)])
    one = notebook.stylise(network, contents, photo.flip(2), iterations=2)
    each = notebook.stylise(network, contents, [photo.flip(2), photo.flip(2)], iterations=2)
    assert torch.equal(one.images, each.images)
    with pytest.raises(ValueError, match="one for each of 2 contents, not 3"):
        notebook.stylise(network, contents, [photo] * 3)


def test_attributions_are_those_of_the_pure_function(network: Network, photo: torch.Tensor) -> None:
    rule = {"trapezoid": 4}
    [found] = notebook.integrated_gradients(network, photo, baseline="blur", rule=rule, batch=4)
    with torch.no_grad():
        predicted = int(network(photo, [LOGITS])[LOGITS].argmax())
    params = AttributionParams.model_validate({"rule": rule})
    baselines = make_baselines("blur", photo, network.mean)
    [expected] = integrated_gradients(network, photo, [predicted], baselines, params, batch=4)
    assert torch.equal(found.map, expected.map)
    assert notebook.draw_map(found, photo[0]).width >= photo.shape[3]


def test_what_is_misspelt(network: Network, photo: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="octave\n"):
        notebook.dream(network, photo, octave=2)
    with pytest.raises(ModelError, match="unknown class 'tabbi'"):
        notebook.integrated_gradients(network, photo, ["tabbi"])
