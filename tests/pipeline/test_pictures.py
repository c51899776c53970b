"""Styles and guides: found, checked and named before the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.pictures import PictureError, find_pictures
from workers.params import ImageParams

IMAGES = ImageParams.model_validate({"short_side": 64, "snap": 1})


@pytest.fixture
def styles(tmp_path: Path, photographs: dict[str, Path]) -> Path:
    for folder, source, name in (
        ("one", "chelsea", "cat.png"),
        ("one", "coffee", "cup.png"),
        ("two", "chelsea", "cat.png"),
        ("three", "astronaut", "cat.png"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(photographs[source], tmp_path / folder / name)
    (tmp_path / "one" / "notes.txt").write_text("no picture")
    return tmp_path


def test_files_globs_and_folders(styles: Path) -> None:
    assert [p.name for p in find_pictures([str(styles / "one")], IMAGES)] == ["cat", "cup"]
    assert [p.name for p in find_pictures([f"{styles}/one/*.png"], IMAGES)] == ["cat", "cup"]
    assert [p.name for p in find_pictures([f"{styles}/one/cup.png", f"{styles}/one"], IMAGES)] == ["cup", "cat"]


def test_the_same_picture_twice_is_one_style_and_the_same_name_twice_are_two(styles: Path) -> None:
    found = find_pictures([str(styles / name) for name in ("one", "two", "three")], IMAGES)
    assert len(found) == 3 and len({p.name for p in found}) == 3 and len({p.sha256 for p in found}) == 3
    assert sorted(p.name.split("-")[0] for p in found) == ["cat", "cat", "cup"]


def test_what_is_no_picture_is_said_before_the_run(styles: Path) -> None:
    (styles / "one" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(PictureError, match=r"torn\.jpg: "):
        find_pictures([str(styles / "one")], IMAGES)
    (styles / "empty").mkdir()
    with pytest.raises(PictureError, match="names no image"):
        find_pictures([str(styles / "empty")], IMAGES)
