"""Job files with comments: whole, valid, and true to the values they are made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from jobs.shortcuts import starter_job
from jobs.spec import json_schema, load_job
from jobs.template import commented_job
from pipeline.config import TASKS
from workers.records import Task

SCHEMA = json_schema()


def keys_of(schema: dict[str, Any], task: str) -> set[str]:
    """All keys that a job of this task can have, at any depth."""
    if "$ref" in schema:
        return keys_of(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], task)
    forms = [*schema.get("anyOf", ()), *filter(None, [schema.get("items")])]
    own = {key: sub for key, sub in schema.get("properties", {}).items() if key == task or key not in TASKS}
    return {*own, *(key for form in (*forms, *own.values()) for key in keys_of(form, task))}


@pytest.mark.parametrize("task", get_args(Task))
def test_a_starter_is_valid_as_it_stands_and_has_every_key(task: Task, tmp_path: Path) -> None:
    text = starter_job(task)
    (tmp_path / "job.yaml").write_text(text)
    assert load_job(tmp_path / "job.yaml").task == task
    missing = {key for key in keys_of(SCHEMA, task) if not re.search(rf"\b{key}:", text)}
    assert not missing


@pytest.mark.parametrize("task", get_args(Task))
def test_what_stands_behind_a_hash_are_the_defaults(task: Task, tmp_path: Path) -> None:
    text = starter_job(task)
    (tmp_path / "job.yaml").write_text(text)
    head, _, body = text.partition("\n\n")
    (tmp_path / "all.yaml").write_text(re.sub(r"^( *)# ?((?:  )*\w+:)", r"\1\2", body, flags=re.MULTILINE))
    everything = load_job(tmp_path / "all.yaml", ["name=job"])
    assert everything.model_dump(exclude_unset=True) != load_job(tmp_path / "job.yaml").model_dump(exclude_unset=True)
    assert everything == load_job(tmp_path / "job.yaml", ["name=job"])
    assert all(line.startswith("#") for line in head.splitlines())


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "ü 😀.jpg", "yes", "1e3", "# no", 'say "a: b"', "\u2028x", "{a,b}.jpg", "-x", "", "~/a", "back\\slash"],
)
def test_names_come_back_as_they_went(name: str, tmp_path: Path) -> None:
    values = {
        "source": {"uri": name or "photos"},
        "output": "run",
        "style": {"styles": [name], "style_layers": ["relu1_1", {"name": name, "weight": 1e-07, "channels": [1, 2]}]},
    }
    (tmp_path / "job.yaml").write_text(commented_job(values, SCHEMA, "A job."))
    job = load_job(tmp_path / "job.yaml")
    assert job.source.uri == (name or "photos") and job.style and job.style.styles == [name]
    assert job.style.style_layers and job.style.style_layers[1].model_dump() == values["style"]["style_layers"][1]


def test_a_second_stage_has_only_what_was_said_of_it(tmp_path: Path) -> None:
    stages = [{"octaves": 2}, {"class": "tabby", "step": 0.5}, {}]
    text = commented_job({"source": {"uri": "a"}, "output": "b", "deepdream": {"stages": stages}}, SCHEMA, "")
    (tmp_path / "job.yaml").write_text(text)
    job = load_job(tmp_path / "job.yaml")
    assert job.deepdream and [s.model_dump(exclude_unset=True, by_alias=True) for s in job.deepdream.stages] == stages
    assert text.count("jitter") == 1
