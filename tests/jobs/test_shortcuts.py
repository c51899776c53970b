"""Presets and options, as the jobs that they amount to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from jobs import presets
from jobs.shortcuts import UsageError, shortcut
from jobs.spec import JobFileError, check_document, load_job
from pipeline.config import JobConfig
from workers.records import Task

STYLE = {"styles": ["painting.jpg"]}


def job(task: Task, options: dict[str, Any], *overrides: str, preset: str = "default") -> JobConfig:
    asked = shortcut(task, "photos", "out", options, overrides, preset=preset)
    return check_document(asked.document, asked.name)


@pytest.mark.parametrize(("task", "preset"), [(t, name) for t in get_args(Task) for name in presets.names(t)])
def test_every_preset_is_a_job_and_its_file_the_same_job(task: Task, preset: str, tmp_path: Path) -> None:
    asked = shortcut(task, "photos", tmp_path / "out", STYLE if task == "style" else {}, preset=preset)
    (tmp_path / "out.yaml").write_text(asked.text())
    config = check_document(asked.document, asked.name)
    assert config == load_job(tmp_path / "out.yaml")
    assert config.name == "out" and config.output == str(tmp_path / "out" / ".pixgrad")
    assert presets.text(task, preset).startswith("# ")


def test_an_unknown_preset_is_answered_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"did you mean \"quick\"\? There are default, colors, fine, quick"):
        job("style", STYLE, preset="quik")


def test_options_set_the_keys_that_they_stand_for() -> None:
    options = {"layers": ["relu3_1"], "guide": "g.jpg", "octaves": 2, "iterations": 3, "size": 99, "seed": 5}
    dream = job("deepdream", {**options, "model": "vgg16"})
    assert dream.deepdream and dream.seed == 5 and dream.images.short_side == 99 and dream.model.name == "vgg16"
    stage = dream.deepdream.stages[0]
    assert stage.layers and stage.layers[0].name == "relu3_1"
    assert (stage.guide, stage.octaves, stage.iterations) == ("g.jpg", 2, 3)
    styled = job("style", {**STYLE, "assign": "random", "iterations": 7, "strength": 0.8}).style
    assert styled and (styled.styles, styled.assign) == (["painting.jpg"], "random")
    assert (styled.iterations, styled.strength) == (7, 0.8)
    explained = job("attribution", {"target": ["tabby", 3]}).attribution
    assert explained and explained.target == ["tabby", 3]


def test_the_size_of_an_attribution_is_that_of_its_square() -> None:
    images = job("attribution", {"size": 96}).images
    assert (images.frame, images.short_side) == ((96, 96), None)


@pytest.mark.parametrize("assignment", ["output=elsewhere", "source=others", "source.uri=others"])
def test_source_and_place_are_not_overridden(assignment: str) -> None:
    with pytest.raises(UsageError, match="SRC and OUT"):
        job("deepdream", {}, assignment)


def test_an_override_has_the_last_word() -> None:
    assert job("deepdream", {"size": 99}, "images.short_side=77").images.short_side == 77


def test_a_preset_of_other_scales_asks_for_their_iterations() -> None:
    """The preset lists one number a scale; one for all of them always fits."""
    with pytest.raises(JobFileError, match="lists 3 numbers and scales is 2: list one for each scale, or"):
        job("style", STYLE, "style.scales=2")
    styled = job("style", {**STYLE, "iterations": 7}, "style.scales=2").style
    assert styled and (styled.iterations, styled.scales) == (7, 2)


@pytest.mark.parametrize(
    ("task", "options", "sentence"),
    [
        ("deepdream", {"size": 5}, "^size: expected a whole number of at least 16"),
        ("deepdream", {"layers": []}, "^layers: expected a non-empty list"),
        ("style", {**STYLE, "strength": -1.0}, "^strength: expected a number"),
        ("style", {**STYLE, "iterations": 0}, "^iterations: expected a whole number of at least 1"),
        ("attribution", {"top": 0}, "^top: .*a whole number of at least 1"),
    ],
)
def test_a_wrong_option_is_answered_by_its_name(task: Task, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(JobFileError, match=sentence):
        job(task, options)
