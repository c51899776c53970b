"""The source images of sampled rows, where they can still be read."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from pipeline.plan import Chunk, read_chunks
from pipeline.seal import DamagedError, read_sealed
from workers.errors import PixgradError
from workers.fetch import Fetcher
from workers.layout import chunk_name
from workers.records import ImageRef
from workers.storage import StorageError, Store

Image = tuple[str, str | None]
"""A row's `uri` and `member`."""


def by_image(rows: Iterable[Mapping[str, Any]]) -> dict[Image, list[Mapping[str, Any]]]:
    """Rows by their image, in the order in which the images come first."""
    found: dict[Image, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["uri"], row["member"]), []).append(row)
    return found


class Sources:
    """Reads source images by name. Where they lie is in the plan; a store that fails is asked no more."""

    def __init__(self, store: Store, root: str, max_bytes: int, rows: Iterable[Mapping[str, Any]]):
        self._refs = _find(store, rows)
        self._fetcher = Fetcher(root, max_bytes)
        self._gone = threading.Event()

    def read(self, image: Image) -> bytes | None:
        """The image's bytes, or None if they can't be read any more."""
        ref = self._refs.get(image)
        if ref is None or self._gone.is_set():
            return None
        try:
            return self._fetcher.fetch(ref)
        except StorageError:
            self._gone.set()
        except PixgradError:
            pass
        return None


def _find(store: Store, rows: Iterable[Mapping[str, Any]]) -> dict[Image, ImageRef]:
    """References of the rows' images, from the chunks of the plan that hold their units."""
    units: dict[int, set[str]] = {}
    for row in rows:
        units.setdefault(row["unit"], set()).add(row["uri"])
    found: dict[Image, ImageRef] = {}
    for chunk in read_chunks(store) if units else ():
        uris = {uri for unit, of_unit in units.items() if _holds(chunk, unit) for uri in of_unit}
        if uris:
            found |= {(ref.uri, ref.member): ref for ref in _refs(store, chunk, uris)}
    return found


def _holds(chunk: Chunk, unit: int) -> bool:
    return chunk.first_unit <= unit < chunk.first_unit + chunk.units


def _refs(store: Store, chunk: Chunk, uris: set[str]) -> Iterable[ImageRef]:
    try:
        table = read_sealed(store, chunk_name(chunk.number), ["uri", "member", "offset", "bytes"])
    except (DamagedError, StorageError):
        return []
    wanted = [place for place, uri in enumerate(table.column("uri").to_pylist()) if uri in uris]
    return [ImageRef(**row) for row in table.take(pa.array(wanted, pa.int64())).to_pylist()]
