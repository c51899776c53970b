"""A run is never continued as another job: what its fingerprint holds, and what may change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import JobConfig
from pipeline.listing import Source
from pipeline.prepare import PreparedJob
from pipeline.provenance import OtherJobError, fingerprint, write_run
from pipeline.source import open_source
from pipeline.variants import variants_of
from workers.description import ModelDescription, PreparedModel
from workers.setup import Picture
from workers.storage import LocalStore
from workers.weights import WeightsFile

CONFIG: dict[str, Any] = {
    "name": "cats",
    "source": {"uri": "photos"},
    "output": "run",
    "model": {"name": "small", "weights": "small.pth"},
    "precision": "fp32",
    "style": {"styles": ["dots.png"], "content_layers": ["a"], "style_layers": ["b"]},
}


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def job(tmp_path: Path) -> PreparedJob:
    """A job of styles, with everything looked up."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "small.pth").write_bytes(b"weights")
    given = {"source": {"uri": str(tmp_path / "photos")}, "output": str(tmp_path / "run")}
    config = JobConfig.model_validate(CONFIG | given)
    description = ModelDescription(
        "small", [], ["cat", "dog"], (0, 0, 0), (1, 1, 1), 32, fixed_side=False, hub=None, weights_path=None
    )
    styles = (Picture("dots.png", "dots", hash_of("dots")),)
    return PreparedJob(
        config=config,
        model=PreparedModel(config.model, description, WeightsFile(tmp_path / "small.pth", "small.pth")),
        layers=("a", "b"),
        styles=styles,
        guides={},
        source=source_of(config),
        variants=variants_of(config, styles),
        store=LocalStore(tmp_path / "run"),
        allow_code=False,
    )


def source_of(config: JobConfig) -> Source:
    return open_source(config.source, reserved=frozenset())


def begin(job: PreparedJob) -> None:
    fields = job.fingerprint_fields("fp32")
    facts = {"fingerprint": fingerprint(fields), "fingerprint_fields": fields, "fixed": {"precision": "fp32"}}
    write_run(job.store, facts)


def configured(job: PreparedJob, **changes: Any) -> PreparedJob:
    """The job with other values in its file."""
    config = job.config.model_dump(by_alias=True, exclude_none=True)
    for path, value in changes.items():
        section, _, key = path.partition("__")
        config[section] = config[section] | {key: value} if key else value
    return replace(job, config=JobConfig.model_validate(config))


def other_weights(job: PreparedJob) -> PreparedJob:
    path = job.model.weights.path.with_name("other.pth")
    path.write_bytes(b"other weights")
    return replace(job, model=replace(job.model, weights=WeightsFile(path, "small.pth")))


def other_classes(job: PreparedJob) -> PreparedJob:
    description = replace(job.model.description, categories=["dog", "cat"])
    return replace(job, model=replace(job.model, description=description))


def other_style(job: PreparedJob) -> PreparedJob:
    return replace(job, styles=(replace(job.styles[0], sha256=hash_of("another picture of that name")),))


def test_a_fresh_folder_is_nobodys(job: PreparedJob) -> None:
    assert job.own_run() is None


def test_a_run_goes_on_with_its_own_job(job: PreparedJob) -> None:
    begin(job)
    assert job.own_run() is not None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_weights, "model.weights"),
        (other_classes, "model.classes"),
        (other_style, "style.styles"),
        (lambda job: configured(job, seed=1), "seed"),
        (lambda job: configured(job, precision="bf16"), "precision"),
        (lambda job: configured(job, model__name="smaller"), "model.name"),
        (lambda job: configured(job, images__short_side=64), "images.short_side"),
        (lambda job: configured(job, units__size=3), "units.size"),
        (lambda job: configured(job, source__uri="/elsewhere"), "source.uri"),
        (lambda job: configured(job, source__labels="folder"), "source.labels"),
        (lambda job: configured(job, style__iterations=3), "style.iterations"),
        (lambda job: configured(job, style__content_layers=["b"]), "style.content_layers"),
    ],
)
def test_another_job_is_refused_and_what_differs_is_named(
    job: PreparedJob, change: Callable[[PreparedJob], PreparedJob], named: str
) -> None:
    begin(job)
    with pytest.raises(OtherJobError, match=f"another job: {named} differs; ") as caught:
        change(job).own_run()
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


def test_several_differences_are_named_together(job: PreparedJob) -> None:
    begin(job)
    with pytest.raises(OtherJobError, match=r"model\.weights, seed differ; "):
        configured(other_weights(job), seed=1).own_run()


@pytest.mark.parametrize(
    "changes", [{"name": "dogs"}, {"max_failed": 0.5}, {"workers__max": 3}, {"output": "/moved"}, {"precision": "auto"}]
)
def test_what_makes_no_other_outputs_may_change(job: PreparedJob, changes: dict[str, Any]) -> None:
    begin(job)
    assert configured(job, **changes).own_run() is not None


def test_weights_that_were_moved_are_the_same(job: PreparedJob) -> None:
    begin(job)
    moved = job.model.weights.path.rename(job.model.weights.path.with_name("moved.pth"))
    assert replace(job, model=replace(job.model, weights=WeightsFile(moved, "elsewhere"))).own_run() is not None
