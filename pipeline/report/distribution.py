"""The distribution of a measure over any number of outputs, counted in fixed bins so that it needs one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS_A_DECADE = 60
"""Of a logarithmic distribution: each bin is 4 % wide, so quantiles are that exact."""

DECADES = (-12, 9)
_LOG_EDGES = 10.0 ** (np.arange((DECADES[1] - DECADES[0]) * BINS_A_DECADE + 1) / BINS_A_DECADE + DECADES[0])
_UNIT_EDGES = np.linspace(0, 1, 1001)

SHOWN_BINS = 48
"""Bars of a histogram, at most."""

LEAST_BINS = 10
"""Room for so many: a measure that hardly varies shall look so."""


@dataclass(frozen=True)
class Histogram:
    """Bars for a chart: `counts[i]` lie between `edges[i]` and `edges[i + 1]`."""

    edges: list[float]
    counts: list[int]


class Distribution:
    """Counts values in bins: of equal ratio from 1e-12 to 1e9 (`logarithmic`), or of equal width from 0 to 1.

    A logarithmic distribution's bins are in units of its `limit`, so that none has values on both sides of it. Values
    outside count for the outermost bins, zeros in a logarithmic one apart, NaN nowhere.
    """

    def __init__(self, *, logarithmic: bool = True, limit: float | None = None):
        self.logarithmic = logarithmic
        self.limit = limit
        self.count = self.zeros = self.beyond = 0
        self.highest = -np.inf
        self._edges = _LOG_EDGES * (limit or 1.0) if logarithmic else _UNIT_EDGES
        self._counts = np.zeros(len(self._edges) - 1, dtype=np.int64)

    def add(self, values: NDArray[np.float64]) -> None:
        """Count values. `beyond` are those over `limit`."""
        values = values[~np.isnan(values)]
        if not values.size:
            return
        self.count += values.size
        self.highest = max(self.highest, float(values.max()))
        if self.limit is not None:
            self.beyond += int((values > self.limit).sum())
        if self.logarithmic:
            self.zeros += int((values <= 0).sum())
            values = values[values > 0]
        places = np.searchsorted(self._edges, values, side="right") - 1
        np.add.at(self._counts, np.clip(places, 0, len(self._counts) - 1), 1)

    def quantile(self, share: float) -> float:
        """The value below which `share` of the outputs lie, as exact as the bins are; NaN if there are none."""
        if not self.count:
            return float("nan")
        wanted = share * self.count - self.zeros
        if wanted <= 0 and self.zeros:
            return 0.0
        reached = np.cumsum(self._counts)
        place = min(int(np.searchsorted(reached, wanted)), len(self._counts) - 1)
        before = reached[place - 1] if place else 0
        within = (wanted - before) / max(self._counts[place], 1)
        low, high = self._edges[place], self._edges[place + 1]
        value = low * (high / low) ** within if self.logarithmic else low + (high - low) * within
        return min(float(value), self.highest)

    def histogram(self) -> Histogram | None:
        """The occupied bins, joined until there are few enough to look at, with some room; None if there are none."""
        occupied = np.flatnonzero(self._counts)
        if not occupied.size:
            return None
        widths = (1, 2, 3, 6, 12, 20, 30, 60) if self.logarithmic else (25, 50, 100)
        first, last = (occupied[0], occupied[-1]) if self.logarithmic else (0, len(self._counts) - 1)
        most = np.clip(2 * self.count**0.5, 10, SHOWN_BINS)  # of few outputs, fewer bars
        width = next((w for w in widths if last // w - first // w < most), widths[-1])
        room = max(0, LEAST_BINS - (last // width - first // width)) // 2
        start = max(0, first // width - room) * width
        stop = min(len(self._counts) // width, last // width + 1 + room) * width
        counts = self._counts[start:stop].reshape(-1, width).sum(axis=1)
        return Histogram(self._edges[start : stop + 1 : width].tolist(), counts.tolist())
