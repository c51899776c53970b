"""Collections to measure on: real photographs cut to size, and tables of images that nobody has to have."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from pipeline.config import SourceParams
from pipeline.plan import RESERVED, Plan
from pipeline.source import Source, open_source
from pipeline.variants import Grid
from workers.records import Variant
from workers.storage import Store

UNIT = 64
"""Outputs a unit, as jobs have it by default."""

_PHOTOGRAPHS = ("retina.jpg", "hubble_deep_field.jpg", "motorcycle_left.png", "coffee.png", "astronaut.png", "ihc.png")
_ROWS = 100_000


def write_photographs(folder: Path, sizes: Iterable[tuple[int, int]]) -> None:
    """JPEGs of these widths and heights in pixels, each a different part of a photograph."""
    folder.mkdir(parents=True)
    data = Path(str(files("skimage"))) / "data"
    photographs = [Image.open(data / name).convert("RGB") for name in _PHOTOGRAPHS]
    for i, size in enumerate(sizes):
        part = ImageOps.fit(photographs[i % len(photographs)], size, centering=(i * 0.37 % 1, i * 0.61 % 1))
        part.save(folder / f"{i:04d}.jpg", quality=90)


def write_table(path: Path, images: int) -> None:
    """A Parquet table of so many URIs in folders of 1,000."""
    with pq.ParquetWriter(path, pa.schema([("uri", pa.string())])) as writer:
        for first in range(0, images, _ROWS):
            rows = range(first, min(images, first + _ROWS))
            writer.write_table(pa.table({"uri": [f"{i // 1000:06d}/{i:09d}.jpg" for i in rows]}))


def open_table(path: Path | str) -> Source:
    """The source of a job that names the table."""
    return open_source(SourceParams(uri=str(path)), reserved=RESERVED)


def plan_in(store: Store) -> Plan:
    """The plan of a run with one output an image."""
    return Plan(store, Grid((Variant(""),)), UNIT)
