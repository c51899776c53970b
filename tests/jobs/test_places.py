"""Where pictures go, and what may not be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.places import PlaceError, place_of
from pipeline.export import PICTURE_ENDINGS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("photos/cat.png", "photos/more/dog.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "out", "run", "is_file"),
    [
        ("photos/cat.png", "dream.png", ".dream.png.pixgrad", True),
        ("photos/cat.png", "new/dream.JPG", "new/.dream.JPG.pixgrad", True),
        ("photos/cat.png", "dreams", "dreams/.cat.pixgrad", False),
        ("photos/cat.png", "photos/more", "photos/more/.cat.pixgrad", False),
        ("https://host/cat.png", "dream.webp", ".dream.webp.pixgrad", True),
        ("photos", "dreams", "dreams/.pixgrad", False),
        ("photos/*.png", "dreams.v2", "dreams.v2/.pixgrad", False),
        ("s3://bucket/photos/", "dreams", "dreams/.pixgrad", False),
    ],
)
def test_where_pictures_and_their_run_go(here: Path, source: str, out: str, run: str, is_file: bool) -> None:
    place = place_of(source, out, PICTURE_ENDINGS)
    assert (place.out, place.run, place.is_file) == (Path(out), Path(run), is_file)
    place.check([""], overwrite=False)


@pytest.mark.parametrize(
    ("source", "out", "sentence"),
    [
        ("photos", "dream.png", "not one image"),
        ("photos/*.png", "dream.png", "not one image"),
        ("photos/cat.png", "dream.gif", "what can be written"),
        ("photos/cat.png", "dream.npy", "what can be written"),
        ("photos/cat.png", "notes.txt", "notes.txt is a file"),
        ("photos", "notes.txt", "notes.txt is a file"),
        ("photos", "s3://bucket/dreams", "OUT is on this machine"),
    ],
)
def test_what_can_be_no_place(here: Path, source: str, out: str, sentence: str) -> None:
    with pytest.raises(PlaceError, match=sentence):
        place_of(source, out, PICTURE_ENDINGS)


@pytest.mark.parametrize(
    ("source", "out"),
    [("photos/cat.png", "photos/cat.png"), ("photos/cat.png", "photos"), ("photos", "photos"), ("photos/more", ".")],
)
def test_a_source_is_never_replaced(here: Path, source: str, out: str) -> None:
    with pytest.raises(PlaceError, match=r"the source itself|by its own picture"):
        place_of(source, out, PICTURE_ENDINGS).check([""], overwrite=True)


def test_what_is_there_is_replaced_only_if_that_is_said(here: Path) -> None:
    (here / "dream.png").write_bytes(b"precious")
    (here / "full" / "dots").mkdir(parents=True)
    (here / "full" / "dots" / "cat.png").write_bytes(b"precious")
    for source, out, variants in (
        ("photos/cat.png", "dream.png", [""]),
        ("photos/cat.png", "full", ["waves", "dots"]),
        ("photos", "full", [""]),
    ):
        place = place_of(source, out, PICTURE_ENDINGS)
        with pytest.raises(PlaceError, match="--overwrite"):
            place.check(variants, overwrite=False)
        place.check(variants, overwrite=True)
        place.run.mkdir()
        place.check(variants, overwrite=False)
    place_of("photos/more/dog.jpg", "full", PICTURE_ENDINGS).check(["waves", "dots"], overwrite=False)


def test_several_outputs_are_no_single_picture(here: Path) -> None:
    with pytest.raises(PlaceError, match="2 pictures"):
        place_of("photos/cat.png", "dream.png", PICTURE_ENDINGS).check(["dots", "waves"], overwrite=True)
