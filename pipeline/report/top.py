"""The best of a stream of rows, in memory for these alone: the worst by a measure, or a sample by random scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Row = dict[str, Any]
Values = NDArray[np.float64]


class TopRows:
    """Keeps the `size` rows with the highest scores; of equal ones, those that came first."""

    def __init__(self, size: int):
        self._size = size
        self._kept: list[tuple[float, Row]] = []

    def offer(self, table: pa.Table, scores: Values) -> None:
        """Take up rows that belong to the best so far; a score that is NaN belongs to none."""
        floor = self._kept[-1][0] if len(self._kept) == self._size else -np.inf
        candidates = np.flatnonzero(scores > floor)
        if not candidates.size:
            return
        best = candidates[np.argsort(-scores[candidates], kind="stable")[: self._size]]
        rows = table.take(pa.array(best)).to_pylist()
        merged = [*self._kept, *zip(scores[best].tolist(), rows, strict=True)]
        self._kept = sorted(merged, key=lambda pair: -pair[0])[: self._size]

    @property
    def rows(self) -> list[Row]:
        """What was kept, the highest score first."""
        return [row for _, row in self._kept]


def random_scores(seed: int, identities: Iterable[str]) -> Values:
    """A score in [0, 1) for each identity, by hash: the sample with the highest ones depends on no order and no cut.

    Two runs over the same images are sampled at the same images.
    """
    salted = hashlib.blake2b(seed.to_bytes(16, "big"), digest_size=8)
    digests = bytearray()
    for identity in identities:
        hashed = salted.copy()
        hashed.update(identity.encode())
        digests += hashed.digest()
    return np.frombuffer(bytes(digests), ">u8").astype(np.float64) / 2.0**64
