"""`import pixgrad`: what it loads, and its examples, run as they stand."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

import pixgrad

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture
def place(tmp_path: Path, photographs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    shutil.copy(photographs["rocket"], tmp_path / "photos")
    shutil.copy(photographs["rocket"], tmp_path / "photo.jpg")
    shutil.copy(photographs["hubble_deep_field"], tmp_path / "painting.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, pixgrad; dir(pixgrad); print({'torch', 'ray', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_every_public_name_is_there_and_documented() -> None:
    for name in pixgrad.__all__:
        assert getattr(pixgrad, name).__doc__, name
    assert set(pixgrad.__all__) <= set(dir(pixgrad))
    with pytest.raises(AttributeError, match="no attribute 'stylize'"):
        getattr(pixgrad, "stylize")  # noqa: B009


def test_the_example_of_jobs(place: Path, capsys: pytest.CaptureFixture[str], ray_cluster: None) -> None:
    runpy.run_path(str(EXAMPLES / "jobs.py"))
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "1 outputs, 0 of them failed" and told[1].startswith("rocket.jpg (96, 64) loss ")
    assert told[2] == f"complete in {place}/painted/.pixgrad" and told[3].endswith("(64, 64) float32")
    with Image.open("painted/rocket.png") as picture:
        run = pixgrad.open_run("painted/.pixgrad")
        [(row, image)] = run.images()
        assert row == pq.read_table("painted/.pixgrad/manifest.parquet").to_pylist()[0]
        assert image.tobytes() == picture.convert("RGB").tobytes()
    assert run.export(place / "again") == 1 and (place / "again" / "rocket.png").is_file()
    assert not list(run.maps())
    with pytest.raises(pixgrad.PixgradError, match="another job"):
        pixgrad.style("photos", "painted", "painting.jpg", preset="quick", size=80, progress=False)


def test_the_example_of_a_notebook(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(EXAMPLES / "notebook.py"))
    assert names["dreamed"].objective_last > names["dreamed"].objective_first
    for name, size in (("dream.png", (144, 96)), ("painted.png", (144, 96))):
        with Image.open(name) as picture:
            assert picture.size == size
    assert Path("why.png").is_file() and "8 gradients" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        ({"source": "photos"}, "output: this key is required"),
        ({"source": Path("photos"), "output": "x", "dreem": {}}, "dreem: unknown key"),
        ({"source": {1, 2}}, "a job holds what YAML can hold"),
        ("none.yaml", "there is no such file"),
    ],
)
def test_a_wrong_job_is_one_sentence(job: object, sentence: str) -> None:
    with pytest.raises(pixgrad.PixgradError, match=sentence):
        pixgrad.run(job)  # pyright: ignore[reportArgumentType]
