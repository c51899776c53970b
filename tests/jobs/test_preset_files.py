"""Every preset is a job file as it is, once it is told where the images are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from jobs.spec import load_job

PRESETS = sorted(Path(str(files("jobs") / "presets")).glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_a_job(preset: Path) -> None:
    given = ["source.uri=photos", "output=runs/out"]
    if "\nstyle:" in preset.read_text():
        given.append("style.styles=[paintings]")
    job = load_job(preset, given)
    assert job.source.uri == "photos" and preset.read_text().startswith("# ")


def test_the_stylized_data_set_keeps_classes_and_draws_by_identity() -> None:
    job = load_job(next(p for p in PRESETS if p.stem == "stylized-dataset"), ["output=out"])
    assert job.source.labels == "folder" and job.style and job.style.assign == "random"
