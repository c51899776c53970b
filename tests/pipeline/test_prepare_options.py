"""Styles and dreams that can't be made as asked are refused before anything runs, and the key is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config import JobConfig
from pipeline.prepare import JobError, PreparedJob, prepare
from workers.description import PreparedModel, prepare_model
from workers.params import ModelParams


@pytest.fixture(scope="module")
def vgg19() -> PreparedModel:
    return prepare_model(ModelParams())


@pytest.fixture
def place(tmp_path: Path, photographs: dict[str, Path], vgg19: PreparedModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photographs and styles; the network is looked at once for all tests."""
    for folder, name in (("photos", "chelsea"), ("styles", "coffee"), ("styles", "rocket")):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(photographs[name], tmp_path / folder)
    monkeypatch.setattr("pipeline.prepare.prepare_model", lambda params, **_: vgg19)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(**section: Any) -> PreparedJob:
    images = section.pop("images", {"short_side": 256})
    return prepare(JobConfig.model_validate({"source": "photos", "output": "run", "images": images, **section}))


@pytest.mark.parametrize(
    ("section", "key", "sentence"),
    [
        ({"style": {"styles": ["styles"], "blend": [1]}}, "style.blend", "1 weights for 2 styles"),
        ({"style": {"styles": ["styles"], "scales": 6}}, "images", r"would be given 8 x 8.*scales"),
        ({"style": {"styles": ["styles/nobody.png"]}}, "style.styles", "nobody"),
        ({"deepdream": {"channel_sheet": {"layer": "relu9_1"}}}, "deepdream.channel_sheet", "relu9_1"),
        ({"deepdream": {"channel_sheet": {"layer": "relu1_1", "first": 1}}}, "deepdream.channel_sheet", "0 to 63"),
        ({"deepdream": {"stages": [{"octaves": 12}]}}, "images", "fewer octaves"),
        (
            {"deepdream": {"stages": [{}, {"layers": [{"name": "relu4_1", "guide": "styles/none.jpg"}]}]}},
            "deepdream.stages.1.layers.0.guide",
            "none.jpg",
        ),
    ],
)
def test_what_cant_be_is_said_with_its_key(place: Path, section: Any, key: str, sentence: str) -> None:
    with pytest.raises(JobError, match=sentence) as caught:
        job(**section)
    assert ".".join(caught.value.key) == key and "\n" not in str(caught.value)


def test_average_pooling_needs_max_pooling(place: Path, vgg19: PreparedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job(deepdream={"pooling": "average"}).config.deepdream
    vgg19.description.layers[:] = [layer for layer in vgg19.description.layers if layer.kind != "MaxPool2d"]
    with pytest.raises(JobError, match="no max pooling"):
        job(style={"styles": ["styles"], "pooling": "average"})


def test_a_guide_of_a_stage_is_that_of_its_layers(place: Path) -> None:
    layers = ["relu3_1", {"name": "relu4_1", "guide": "styles/rocket.jpg"}]
    made = job(deepdream={"stages": [{"layers": layers, "guide": "styles/coffee.png"}]})
    assert made.config.deepdream and made.config.deepdream.stages[0].layers
    of_layers = [layer.guide for layer in made.config.deepdream.stages[0].layers]
    assert of_layers == [str(place / "styles" / name) for name in ("coffee.png", "rocket.jpg")]
    assert [guide.uri for guide in made.guides.values()] == list(made.guides) == of_layers
    [stage] = made.fingerprint_fields("fp32")["deepdream"]["stages"]
    assert [layer["guide"] for layer in stage["layers"]] == [guide.sha256 for guide in made.guides.values()]
    assert stage["guide"] == next(iter(made.guides.values())).sha256


def test_a_guide_may_be_named_by_a_pattern(place: Path) -> None:
    made = job(deepdream={"stages": [{"guide": "styles/*.png"}]})
    assert [Path(guide.uri).name for guide in made.guides.values()] == ["coffee.png"]
    assert made.fingerprint_fields("fp32")["deepdream"]["stages"][0]["layers"][0]["guide"]


def test_a_style_too_small_for_the_coarsest_scale_is_said_before_the_run(place: Path) -> None:
    Image.new("RGB", (60, 90)).save(place / "styles" / "stamp.png")
    assert len(job(style={"styles": ["styles"], "scales": 2}).styles) == 3
    with pytest.raises(JobError, match=r"stamp\.png: it would be 60 x 90 pixels, and the network needs 64"):
        job(style={"styles": ["styles"], "scales": 3})


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"deepdream": {"stages": [{"guide": "g.png", "class": 3}]}}, "a guide needs layers"),
        ({"deepdream": {"stages": [{"tile": 64, "layers": [{"name": "a", "position": [0, 0]}]}]}}, "leave out tile"),
        ({"deepdream": {"init": "grey", "colors": "luminance"}}, "no colours to keep"),
        (
            {"deepdream": {"channel_sheet": {"layer": "a"}, "stages": [{"layers": ["b"]}]}},
            "leave out the stages' layers",
        ),
    ],
)
def test_what_doesnt_fit_together_is_refused(section: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        JobConfig.model_validate({"source": "photos", "output": "run", **section})
