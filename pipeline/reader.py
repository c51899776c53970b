"""A run opened for reading: its rows as a table, its outputs as pictures and maps. No torch, no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline.commit import latest_rows
from pipeline.export import export, made_outputs
from pipeline.patterns import absolute
from pipeline.status import open_run
from workers.layout import HIDDEN_RUN, RUN
from workers.storage import Store, open_store

Row = dict[str, Any]


class Run:
    """A run's folder, or its prefix in an object store; also of one that is still at work.

    `path` is where it is, `facts` what its `run.json` says: state, counts, model, versions and so on.
    """

    def __init__(self, path: str | Path):
        """Open the run at `path`, or that of the pictures there. Raises NoRunError, StorageError."""
        self._store = _store_of(absolute(str(path)))
        self.path = self._store.url
        self.facts = open_run(self._store)

    def __repr__(self) -> str:
        return f"Run({self.path!r})"

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The latest row of every output that is committed, with all columns or `key`, `round` and those of `columns`.

        Raises StorageError.
        """
        tables = list(latest_rows(self._store, columns))
        return pa.concat_tables(tables) if tables else pa.table({})

    def images(self) -> Iterator[tuple[Row, Image.Image]]:
        """The row and the picture (RGB) of every output that was made; of an attribution that is the heatmap.

        Shards are read one after the other, as they are asked for. Raises StorageError.
        """
        for row, files in made_outputs(self._store):
            with Image.open(BytesIO(files["png"]), formats=["PNG"]) as picture:
                yield row, picture.convert("RGB")

    def maps(self) -> Iterator[tuple[Row, NDArray[np.float32]]]:
        """The row and the signed map (H x W, float32, in units of the objective) of every attribution that was made."""
        for row, files in made_outputs(self._store):
            if "npy" in files:
                yield row, np.load(BytesIO(files["npy"]), allow_pickle=False)

    def export(self, destination: str | Path) -> int:
        """Write the outputs as plain files, in the source's own tree; how many there were. Raises StorageError."""
        return export(self._store, Path(destination), class_tree=False)


def _store_of(path: str) -> Store:
    store = open_store(path)
    inside = f"{path}/{HIDDEN_RUN}"
    return open_store(inside) if not store.exists(RUN) and open_store(inside).exists(RUN) else store
