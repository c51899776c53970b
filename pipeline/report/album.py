"""The sampled pictures as small files beside the page: decoded again, made smaller, written as WebP."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from pipeline.export import read_samples
from pipeline.report.sources import Image as SourceImage
from pipeline.report.sources import Sources
from workers.codec import decode
from workers.errors import ImageError, PixgradError
from workers.geometry import picture_params
from workers.params import ImageParams
from workers.storage import Store, read_bytes

FOLDER = "images"
LONGEST_SIDE = 448
QUALITY = 82
THREADS = 4
"""Pictures decoded at a time: each may take 600 MB."""

OURS = re.compile(rf"{FOLDER}/[a-z]-[0-9a-f]{{32}}\.webp")
"""Names that a report gives its pictures."""

HARMFUL = frozenset(("worker_died", "timeout", "out_of_memory"))
"""Failures of images that may end, hang or starve whatever process decodes them: a report doesn't try."""

_PICTURES = ("PNG", "JPEG", "WEBP")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A picture of the page: its file, relative to the page, and its size in pixels."""

    file: str
    width: int
    height: int


class Album:
    """Writes pictures beside the page, whose folder is `store`, and knows which it has written."""

    def __init__(self, store: Store, images: ImageParams):
        self._store = store
        self._images = images
        self._written: set[str] = set()

    def outputs(self, run: Store, rows: Iterable[Row]) -> dict[str, Picture]:
        """Pictures of outputs by key, out of their shards; those that can't be read are left out."""
        by_shard: dict[str, dict[str, Row]] = {}
        for row in rows:
            if row["status"] == "ok":
                by_shard.setdefault(row["shard"], {})[row["key"]] = row
        found: dict[str, Picture] = {}
        for part in _in_threads(lambda pair: self._from_shard(run, *pair), list(by_shard.items())):
            found |= part
        return found

    def sources(self, sources: Sources, rows: Iterable[Row]) -> dict[SourceImage, Picture]:
        """Pictures of the rows' source images, in the frames in which they were processed."""
        return self._decoded(sources, "s", self._images, rows)

    def failed_sources(self, sources: Sources, rows: Iterable[Row]) -> dict[SourceImage, Picture]:
        """Pictures of the source images of failed rows, whole, where looking at them does no harm."""
        harmless = [row for row in rows if row["error_code"] not in HARMFUL]
        whole = picture_params(self._images).model_copy(update={"short_side": LONGEST_SIDE // 2})
        return self._decoded(sources, "f", whole, harmless)

    def style(self, uri: str, sha256: str) -> Picture | None:
        """A picture of a style, if the file still is what it was."""
        try:
            data = read_bytes(uri)
            if hashlib.sha256(data).hexdigest() != sha256:
                return None
            return self._add("y", uri, Image.fromarray(decode(data, picture_params(self._images)).pixels))
        except PixgradError:
            return None

    def _decoded(
        self, sources: Sources, kind: str, params: ImageParams, rows: Iterable[Row]
    ) -> dict[SourceImage, Picture]:
        images = list(dict.fromkeys((row["uri"], row["member"]) for row in rows))

        def picture(image: SourceImage) -> Picture | None:
            data = sources.read(image)
            try:
                pixels = decode(data, params).pixels if data is not None else None
            except (ImageError, MemoryError):
                pixels = None
            return None if pixels is None else self._add(kind, "\n".join(map(str, image)), Image.fromarray(pixels))

        found = zip(images, _in_threads(picture, images), strict=True)
        return {image: made for image, made in found if made}

    def _from_shard(self, run: Store, shard: str, rows: Mapping[str, Row]) -> dict[str, Picture]:
        found: dict[str, Picture] = {}
        try:
            for key, files in read_samples(run, shard):
                data = next((files[e] for e in ("png", "jpg", "webp") if e in files), None)
                if key in rows and data is not None:
                    picture = Image.open(BytesIO(data), formats=_PICTURES).convert("RGB")
                    found[key] = self._add("o", key, without_legend(picture, rows[key]))
                if len(found) == len(rows):
                    break
        except (PixgradError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            pass  # what is wrong with a shard is `verify`'s to say
        return found

    def _add(self, kind: str, identity: str, picture: Image.Image) -> Picture:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC)
        buffer = BytesIO()
        picture.save(buffer, "WEBP", quality=QUALITY)
        file = f"{FOLDER}/{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.webp"
        self._store.replace(file, buffer.getvalue())
        self._written.add(file)
        return Picture(file, *picture.size)

    def remove_others(self) -> None:
        """Remove the pictures of a report that was here before, and nothing else."""
        for entry in list(self._store.list(FOLDER)):
            if OURS.fullmatch(entry.name) and entry.name not in self._written:
                self._store.delete(entry.name)


def without_legend(picture: Image.Image, row: Row) -> Image.Image:
    """The frame alone: a heatmap has its colour scale below it, and margins where the legend is wider than the map."""
    width, height = row["width"], row["height"]
    left = (picture.width - width) // 2
    return picture.crop((left, 0, left + width, height)) if picture.height > height else picture


def _in_threads(work: Callable, items: Sequence) -> list:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))
