"""A contact sheet of a run: images down and variants across, or, where there is one of either, all in a block."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from PIL import Image, ImageDraw, ImageFont, ImageOps

from workers.storage import StorageError

TILE = 192
"""Longest side of a picture on the sheet, in pixels."""

CAPTION = 20
GAP = 6
INK, PAPER = (30, 30, 30), (255, 255, 255)

MOST_TILES = 4096
"""More than 64 x 64 pictures are no overview any more, and some programs show no larger image."""

Place = tuple[str, str]
"""An image's name and a variant's."""


class ContactSheet:
    """Collects small copies of a run's pictures, in any order, the first `MOST_TILES` of them."""

    def __init__(self) -> None:
        self._tiles: dict[Place, Image.Image] = {}
        self.left_out = 0

    def add(self, row: Mapping[str, Any], png: bytes) -> None:
        """Take in an output by its row."""
        if len(self._tiles) == MOST_TILES:
            self.left_out += 1
            return
        with Image.open(BytesIO(png), formats=["PNG"]) as picture:
            tile = ImageOps.contain(picture.convert("RGB"), (TILE, TILE))
        self._tiles[f"{row['uri']}/{row['member'] or ''}", row["variant"]] = tile

    def save(self, path: Path) -> None:
        """Write the sheet, in the format of the path's ending. Raises StorageError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._drawn().save(path)
        except ValueError:
            raise StorageError(f"Can't write {path}: a sheet's name ends in .png, .jpg or .webp.") from None
        except OSError as error:
            raise StorageError(f"Can't write {path}: {os.strerror(error.errno or 0)}; choose another name.") from error

    def _drawn(self) -> Image.Image:
        rows = self._rows()
        width = max((len(row) for row in rows), default=1) * (TILE + GAP) + GAP
        heights = [max((self._tiles[p].height for p in row if p in self._tiles), default=0) for row in rows]
        sheet = Image.new("RGB", (width, sum(heights) + len(rows) * (CAPTION + GAP) + GAP), PAPER)
        draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(12), GAP
        for row, height in zip(rows, heights, strict=True):
            for column, place in enumerate(row):
                left = GAP + column * (TILE + GAP)
                if place in self._tiles:
                    sheet.paste(self._tiles[place], (left, top))
                draw.text((left, top + height + 2), _fitting(self._caption(place), font), INK, font=font)
            top += height + CAPTION + GAP
        return sheet

    def _rows(self) -> Sequence[Sequence[Place]]:
        images, variants = (sorted({place[axis] for place in self._tiles}) for axis in (0, 1))
        if len(images) > 1 and len(variants) > 1:
            return [[(image, variant) for variant in variants] for image in images]
        places = [(image, variant) for image in images for variant in variants]
        across = max(1, ceil(sqrt(len(places) * 4 / 3)))
        return [places[i : i + across] for i in range(0, len(places), across)]

    def _caption(self, place: Place) -> str:
        name = PurePosixPath(unquote(place[0]).rstrip("/")).stem
        only_one = len({image for image, _ in self._tiles}) == 1
        return (place[1] or name) if only_one or not place[1] else f"{name}, {place[1]}"


def _fitting(text: str, font: Any) -> str:
    while text and font.getlength(text) > TILE:
        text = text[:-1]
    return text
