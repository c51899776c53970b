"""A contact sheet shows every picture once, in rows and columns that mean something."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import sheet as module
from pipeline.export import export
from pipeline.sheet import CAPTION, GAP, TILE, ContactSheet
from workers.storage import LocalStore, StorageError

GREENS = {"dots": 100, "waves": 200}
COLOURS = {"a": 40, "b": 90, "c": 140, "d": 190}


def png(red: int, green: int = 0, size: tuple[int, int] = (TILE, TILE)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, (red, green, 255)).save(buffer, "PNG")
    return buffer.getvalue()


def row(image: str, variant: str = "", member: str | None = None) -> dict[str, str | None]:
    return {"uri": f"{image}.jpg", "member": member, "variant": variant}


def centre(sheet: Image.Image, line: int, column: int) -> tuple[int, int, int]:
    place = (GAP + column * (TILE + GAP) + TILE // 2, GAP + line * (TILE + CAPTION + GAP) + TILE // 2)
    return tuple(np.asarray(sheet)[place[1], place[0]].tolist())


def test_a_grid_has_images_down_and_variants_across(tmp_path: Path) -> None:
    sheet = ContactSheet()
    for variant, green in (("waves", 200), ("dots", 100)):
        for image in "cab":
            sheet.add(row(image, variant), png(COLOURS[image], green))
    sheet.save(tmp_path / "new" / "sheet.png")
    drawn = Image.open(tmp_path / "new" / "sheet.png")
    assert drawn.size == (2 * (TILE + GAP) + GAP, 3 * (TILE + CAPTION + GAP) + GAP)
    for line, image in enumerate("abc"):
        assert [centre(drawn, line, column) for column in (0, 1)] == [(COLOURS[image], g, 255) for g in (100, 200)]


def test_an_export_draws_the_sheet_of_its_run(tmp_path: Path, make_run: Callable[..., LocalStore]) -> None:
    pictures = {(image, style): png(20 * image, green) for image in range(3) for style, green in GREENS.items()}
    store = make_run(tmp_path / "run", images=3, unit_size=2, pictures=pictures, failures={(1, "dots"): ["torn"]})
    sheet = ContactSheet()
    assert export(store, tmp_path / "pictures", class_tree=False, sheet=sheet) == 5
    sheet.save(tmp_path / "sheet.png")
    drawn = Image.open(tmp_path / "sheet.png")
    assert [centre(drawn, line, 1) for line in range(3)] == [(20 * line, GREENS["waves"], 255) for line in range(3)]
    assert centre(drawn, 0, 0) == (0, GREENS["dots"], 255) and centre(drawn, 1, 0) == (255, 255, 255)


def test_one_variant_or_one_image_makes_a_block(tmp_path: Path) -> None:
    for names in ([("a", f"conv-{i:02d}") for i in range(12)], [(f"{i:02d}", "") for i in range(12)]):
        sheet = ContactSheet()
        for number, (image, variant) in enumerate(names):
            sheet.add(row(image, variant), png(10 * number))
        sheet.save(tmp_path / "sheet.png")
        drawn = Image.open(tmp_path / "sheet.png")
        assert drawn.size == (4 * (TILE + GAP) + GAP, 3 * (TILE + CAPTION + GAP) + GAP)
        assert [centre(drawn, 1, column)[0] for column in range(4)] == [40, 50, 60, 70]


def test_what_failed_leaves_its_place_empty(tmp_path: Path) -> None:
    sheet = ContactSheet()
    for image, variant in (("a", "dots"), ("a", "waves"), ("b", "waves")):
        sheet.add(row(image, variant), png(COLOURS[image]))
    sheet.save(tmp_path / "sheet.png")
    drawn = Image.open(tmp_path / "sheet.png")
    assert centre(drawn, 1, 0) == (255, 255, 255) and centre(drawn, 1, 1)[0] == COLOURS["b"]


def test_too_many_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TILES", 2)
    sheet = ContactSheet()
    for image in "abcd":
        sheet.add(row(image), png(COLOURS[image], size=(400, 30)))
    assert sheet.left_out == 2
    sheet.save(tmp_path / "sheet.jpg")


def test_a_sheet_that_cant_be_written_is_a_sentence(tmp_path: Path) -> None:
    sheet = ContactSheet()
    sheet.add(row("a"), png(1))
    with pytest.raises(StorageError, match=r"ends in \.png"):
        sheet.save(tmp_path / "sheet.nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another name"):
        sheet.save(tmp_path / "file" / "sheet.png")
