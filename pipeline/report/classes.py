"""Averages for each class of a run: its labels, or the classes that attributions explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MOST_CLASSES = 20_000
"""A column of captions has as many values as there are images: what comes later is counted together."""

REST = "(all others)"


@dataclass(frozen=True)
class ClassRow:
    """A class: its outputs, those that failed, and the mean of each measure (NaN where none of it is known)."""

    name: str
    outputs: int
    failed: int
    means: list[float]


class Classes:
    """Adds up outputs by the class in a column; rows without one belong to none."""

    def __init__(self, column: str, measures: int):
        self.column = column
        self._places: dict[str, int] = {REST: 0}
        self._counts = np.zeros((64, 2), dtype=np.int64)
        self._sums = np.zeros((64, measures))
        self._known = np.zeros((64, measures), dtype=np.int64)

    def add(self, table: pa.Table, failed: NDArray[np.bool_], values: Sequence[NDArray[np.float64]]) -> None:
        """Add a table's rows; `values` are their measures, in order."""
        encoded = table.column(self.column).combine_chunks().dictionary_encode()
        has_class = encoded.is_valid().to_numpy(zero_copy_only=False)
        if not has_class.any():
            return
        places = np.array([self._place(name) for name in encoded.dictionary.to_pylist()])
        rows = places[encoded.indices.drop_null().to_numpy()]
        np.add.at(self._counts, rows, np.stack([np.ones(len(failed)), failed], 1)[has_class].astype(np.int64))
        block = np.stack(values, 1)[has_class]
        np.add.at(self._sums, rows, np.nan_to_num(block, posinf=0, neginf=0))
        np.add.at(self._known, rows, np.isfinite(block))

    def rows(self, most: int) -> list[ClassRow]:
        """The `most` classes with the most outputs, in that order; of equal ones, by name."""
        with np.errstate(invalid="ignore"):
            means = np.where(self._known > 0, self._sums / np.maximum(self._known, 1), np.nan)
        found = [
            ClassRow(name, int(self._counts[i, 0]), int(self._counts[i, 1]), means[i].tolist())
            for name, i in self._places.items()
            if self._counts[i, 0]
        ]
        return sorted(found, key=lambda row: (-row.outputs, row.name))[:most]

    @property
    def count(self) -> int:
        """How many classes there are."""
        return int((self._counts[:, 0] > 0).sum())

    def _place(self, name: str) -> int:
        place = self._places.get(name)
        if place is None and len(self._places) > MOST_CLASSES:
            return 0
        if place is None:
            place = self._places[name] = len(self._places)
            if place == len(self._counts):
                self._counts, self._sums, self._known = map(_doubled, (self._counts, self._sums, self._known))
        return place


def _doubled(array: NDArray) -> NDArray:
    return np.concatenate([array, np.zeros_like(array)])
