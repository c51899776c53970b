"""Which outputs are asked for per image."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pipeline.config import JobConfig
from pipeline.variants import variants_of
from workers.records import ImageRef, Output
from workers.setup import Picture

STYLES = [Picture(f"/styles/{name}.jpg", name, name * 8) for name in ("a", "b", "c")]
IMAGES = [ImageRef(f"{i}.jpg", columns={"painter": "abcx"[i % 4]}) for i in range(300)]


def config(**section: Any) -> JobConfig:
    return JobConfig.model_validate({"source": "photos", "output": "run", **section})


def styles(assign: str, seed: int = 0) -> list[Any]:
    job = config(style={"styles": ["x"], "assign": assign}, seed=seed)
    variants = variants_of(job, STYLES)
    assert variants.names == [""] or list(variants.names) == [""]
    return [variants.of(image, i)[0].value for i, image in enumerate(IMAGES)]


def test_a_grid_has_every_style_by_name() -> None:
    variants = variants_of(config(style={"styles": ["x"]}), STYLES)
    assert list(variants.names) == ["a", "b", "c"]
    assert [v.value for v in variants.of(IMAGES[5], 5)] == [0, 1, 2]


def test_styles_in_turn_follow_the_listing() -> None:
    assert styles("cycle") == [i % 3 for i in range(300)]


def test_random_styles_follow_the_image_and_the_seed() -> None:
    drawn = styles("random")
    assert drawn == styles("random") != styles("random", seed=1)
    assert min(Counter(drawn).values()) > 60, "no style is neglected"
    variants = variants_of(config(style={"styles": ["x"], "assign": "random"}), STYLES)
    assert variants.of(IMAGES[7], 0) == variants.of(IMAGES[7], 99), "the place in the listing doesn't matter"


def test_a_column_names_the_style() -> None:
    assert styles("painter")[:4] == [0, 1, 2, "x"]


def test_a_style_is_known_by_its_name_and_by_its_uri() -> None:
    variants = variants_of(config(style={"styles": ["x"], "assign": "painter"}), STYLES)
    values = [variants.of(ImageRef("i.jpg", columns={"painter": word}), 0)[0].value for word in ("b", "/styles/b.jpg")]
    assert values == [1, 1]


def test_a_blend_is_one_output_an_image() -> None:
    variants = variants_of(config(style={"styles": ["x"], "blend": [1, 2, 3]}), STYLES)
    assert [(v.name, v.value) for v in variants.of(IMAGES[0], 0)] == [("", 0)]


def test_a_sheet_has_each_channel_by_number() -> None:
    sheet = {"layer": "relu4_1", "first": 62, "count": 3}
    variants = variants_of(config(deepdream={"channel_sheet": sheet}), [])
    assert list(variants.names) == ["relu4_1-0062", "relu4_1-0063", "relu4_1-0064"]
    assert [v.value for v in variants.of(IMAGES[0], 0)] == [62, 63, 64]


@pytest.mark.parametrize(
    ("target", "names", "values"),
    [
        ("predicted", [""], ["predicted"]),
        (3, [""], [3]),
        ([3, 5], ["class-3", "class-5"], [3, 5]),
        ({"top": 2}, ["top1", "top2"], ["top:0", "top:1"]),
    ],
)
def test_targets_of_an_attribution(target: Any, names: list[str], values: list[Any]) -> None:
    variants = variants_of(config(attribution={"target": target}), [])
    assert list(variants.names) == names
    assert [v.value for v in variants.of(IMAGES[0], 0)] == values


def test_outputs_of_an_image_have_keys_of_their_own() -> None:
    variants = variants_of(config(style={"styles": ["x"]}), STYLES)
    keys = {Output(image, v).key for image in IMAGES for v in variants.of(image, 0)}
    assert len(keys) == 900 and all(len(key) == 32 and "." not in key for key in keys)
