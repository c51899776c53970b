"""Pictures without a job file: what is typed, what is said, what lies there afterwards."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.spec import load_job

pytestmark = pytest.mark.usefixtures("described_once")

Pixgrad = Callable[..., Any]
SMALL = shlex.split("--model efficientnet_lite0 --size 64 --iterations 1 --set images.snap=16")
DREAM = [*SMALL, *shlex.split("--layer blocks.2 --octaves 1")]


@pytest.fixture
def place(tmp_path: Path, photographs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    shutil.copy(photographs["chelsea"], tmp_path / "photos" / "cats" / "chelsea.png")
    shutil.copy(photographs["rocket"], tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_one_image_in_one_image_out(pixgrad: Pixgrad, place: Path, ray_cluster: None) -> None:
    command = ["deepdream", "photos/rocket.jpg", "-o", "dream.jpg", *DREAM]
    said = pixgrad(*command)
    assert said.code == 0 and said.out.startswith("1 picture in dream.jpg\n") and ".dream.jpg.pixgrad" in said.err
    with Image.open("dream.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (96, 64))
    made = Path("dream.jpg").read_bytes()
    Path("dream.jpg").unlink()
    assert pixgrad(*command).code == 0 and Path("dream.jpg").read_bytes() == made
    other = pixgrad(*command, "--octaves", "2")
    assert other.code == 5 and "deepdream.stages differs" in other.err and "--overwrite" in other.err
    assert Path("dream.jpg").read_bytes() == made
    assert pixgrad(*command, "--octaves", "2", "--overwrite").code == 0
    assert Path("dream.jpg").read_bytes() != made


def test_a_folder_in_two_styles_with_a_torn_image(
    pixgrad: Pixgrad, place: Path, photographs: dict[str, Path], ray_cluster: None
) -> None:
    Path("photos/torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    styles = [f"--style={photographs[name]}" for name in ("coffee", "hubble_deep_field")]
    said = pixgrad("style", ".", *styles, "-o", "styled", *SMALL)
    pictures = {
        f"{style}/photos/{n}.png" for style in ("coffee", "hubble_deep_field") for n in ("rocket", "cats/chelsea")
    }
    assert said.code == 3 and said.out.startswith("4 pictures in styled\n")
    assert "  photos/torn.jpg: The file is cut off" in said.out and "pixgrad retry styled/.pixgrad &&" in said.out
    assert {name for name in tree(place / "styled") if not name.startswith(".")} == pictures
    extended = pixgrad("run", "styled/.pixgrad/job.yaml", "--extend")
    assert extended.code == 3 and pq.read_metadata("styled/.pixgrad/manifest.parquet").num_rows == 6
    assert "styled/.pixgrad" in pixgrad("status", "styled").err


def test_one_attribution_names_the_class(pixgrad: Pixgrad, place: Path, ray_cluster: None) -> None:
    small = shlex.split("--preset quick --size 64 --set attribution.rule.trapezoid=2")
    said = pixgrad("attribution", "photos/cats/chelsea.png", "-o", "why.npy", "--target", "tabby", *small)
    assert said.code == 0 and "  chelsea.png: tabby" in said.out
    assert np.load("why.npy").shape == (64, 64)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("deepdream nowhere -o out", "There is no folder or file "),
        ("deepdream photos/none.jpg -o out", "none.jpg: there is no such file"),
        ("deepdream photos photos/rocket.jpg -o out", "Give one SRC"),
        ("style photos --style notes.txt -o out", "--style: "),
        ("style photos --style text.jpg -o out", "holds no image"),
        ("style photos --style none.jpg -o out", "none.jpg"),
        ("style photos -o out", "--style"),
        ("deepdream photos", "--out"),
        ("deepdream photos -o dream.png", "not one image"),
        ("deepdream photos -o photos", "the source itself"),
        ("deepdream photos -o notes.txt", "is a file"),
        ("deepdream photos -o out --guide none.jpg", "guide: "),
        ("deepdream photos -o out --layer relu9_1", "--layer: unknown layer 'relu9_1'"),
        ("attribution photos -o out --target cat --top 2", "not both"),
        ("attribution photos -o out --target wombatt", "--target: unknown class 'wombatt'"),
        ("attribution photos/rocket.jpg -o why.png --top 2", "2 pictures"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(pixgrad: Pixgrad, place: Path, command: str, sentence: str) -> None:
    for name in ("notes.txt", "text.jpg"):
        Path(name).write_text("no picture at all")
    said = pixgrad(*shlex.split(command))
    assert said.code == 2 and sentence in said.err and "Traceback" not in said.err and not said.out
    assert "out" not in tree(place)


def test_an_empty_folder_is_said_before_anything_is_made(pixgrad: Pixgrad, place: Path) -> None:
    Path("empty").mkdir()
    said = pixgrad("deepdream", "empty", "-o", "out", *DREAM)
    assert said.code == 2 and said.err.startswith("There are no images in ") and ".jpg" in said.err
    assert "kept in" not in said.err and not Path("out").exists()


def test_the_job_file_is_saved_and_nothing_run(pixgrad: Pixgrad, place: Path) -> None:
    command = shlex.split("style photos --style 'a b.jpg' -o out --strength 0.8 --save-job jobs.yaml")
    said = pixgrad(*command)
    assert said.code == 0 and "pixgrad run jobs.yaml" in said.out and not Path("out").exists()
    job = load_job("jobs.yaml")
    assert job.style and job.style.styles == ["a b.jpg"] and job.style.strength == 0.8
    assert job.output == "out/.pixgrad"
    assert "exists" in pixgrad(*command).err


def test_init_writes_a_job_and_replaces_none(pixgrad: Pixgrad, place: Path) -> None:
    assert pixgrad("init").code == 0 and load_job("job.yaml").task == "deepdream"
    assert "pixgrad plan a.yaml" in pixgrad("init", "attribution", "a.yaml").out
    assert load_job("a.yaml").task == "attribution"
    assert pixgrad("init", "style", "a.yaml").code == 2 and load_job("a.yaml").task == "attribution"
    assert pixgrad("init", "style", "none/a.yaml").code == 2
