"""The facts of a report, in one pass over the rows, in memory that doesn't grow with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.report.classes import Classes
from pipeline.report.distribution import Distribution
from pipeline.report.measures import Measure
from pipeline.report.top import Row, TopRows, random_scores

SAMPLE = 48
"""Outputs drawn for the gallery."""

WORST = 12
"""Outputs shown for each measure that has a worst end."""

EXAMPLES = 6
"""Failed outputs shown for each reason."""

GRID_CONTENTS = 12
"""Images in the grid of contents and styles."""

MOST_DISTINCT = 64
"""Different values of `evaluations` that are counted apart."""


@dataclass(frozen=True)
class Gathered:
    """What was found in the rows.

    `measured` has the distribution or, for a yes or no, the count of known values and of yes for each measure.
    """

    outputs: int
    failures: Counter[str]
    examples: dict[str, list[Row]]
    sample: list[Row]
    worst: dict[str, list[Row]]
    grid: list[Row]
    distributions: dict[str, Distribution]
    shares: dict[str, tuple[int, int]]
    evaluations: Counter[int]
    stop_reasons: Counter[str]
    classes: Classes | None
    schema: pa.Schema | None

    @property
    def failed(self) -> int:
        """Outputs whose latest row is a failure."""
        return self.failures.total()

    @property
    def ok(self) -> int:
        """Outputs that were made."""
        return self.outputs - self.failed


def gather(
    tables: Iterable[pa.Table], measures: Sequence[Measure], *, seed: int, styles: int = 0, class_column: str | None
) -> Gathered:
    """Go once through the latest rows of a run. `styles` is how many a grid has, 0 if the run is none."""
    gathering = _Gathering(measures, seed, styles, class_column)
    for table in tables:
        if table.num_rows:
            gathering.add(table)
    return gathering.result()


@dataclass
class _Gathering:
    measures: Sequence[Measure]
    seed: int
    styles: int
    class_column: str | None
    outputs: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    evaluations: Counter[int] = field(default_factory=Counter)
    stop_reasons: Counter[str] = field(default_factory=Counter)
    schema: pa.Schema | None = None

    def __post_init__(self) -> None:
        self.sample = TopRows(SAMPLE)
        self.grid = TopRows(GRID_CONTENTS * self.styles)
        self.examples: dict[str, TopRows] = {}
        self.worst = {m.name: TopRows(WORST) for m in self.measures if m.worst}
        self.shares = {m.name: np.zeros(2, dtype=np.int64) for m in self.measures if m.scale == "yes or no"}
        self.distributions = {
            m.name: Distribution(logarithmic=m.scale == "log", limit=m.limit)
            for m in self.measures
            if m.scale != "yes or no"
        }
        self.classes = Classes(self.class_column, len(self.measures)) if self.class_column else None

    def add(self, table: pa.Table) -> None:
        self.outputs += table.num_rows
        self.schema = self.schema or table.schema
        table = table.combine_chunks()
        values = [measure.values(table) for measure in self.measures]
        failed = pc.equal(table.column("status"), "failed").to_numpy(zero_copy_only=False).astype(bool)
        self._measure(table, values)
        self._draw(table, failed)
        if failed.any():
            self._fail(table.filter(pa.array(failed)))
        if self.classes:
            self.classes.add(table, failed, values)
        if "stop_reason" in table.column_names:
            self.stop_reasons.update(table.column("stop_reason").drop_null().to_pylist())
            self._count_evaluations(table)

    def _measure(self, table: pa.Table, values: Sequence[NDArray[np.float64]]) -> None:
        for measure, found in zip(self.measures, values, strict=True):
            if measure.worst:
                self.worst[measure.name].offer(table, measure.badness(found))
            if measure.scale == "yes or no":
                self.shares[measure.name] += [int((~np.isnan(found)).sum()), int(np.nansum(found))]
            else:
                self.distributions[measure.name].add(found)

    def _draw(self, table: pa.Table, failed: NDArray[np.bool_]) -> None:
        scores = random_scores(self.seed, table.column("key").to_pylist())
        self.sample.offer(table, np.where(failed, np.nan, scores))
        if self.styles:
            members = (member or "" for member in table.column("member").to_pylist())
            images = map("\n".join, zip(table.column("uri").to_pylist(), members, strict=True))
            self.grid.offer(table, random_scores(self.seed, images))

    def _fail(self, table: pa.Table) -> None:
        codes = np.array(table.column("error_code").to_pylist())
        scores = random_scores(self.seed, table.column("key").to_pylist())
        for code, count in Counter(codes.tolist()).items():
            self.failures[code] += count
            self.examples.setdefault(code, TopRows(EXAMPLES)).offer(table, np.where(codes == code, scores, np.nan))

    def _count_evaluations(self, table: pa.Table) -> None:
        for value, count in Counter(table.column("evaluations").drop_null().to_pylist()).items():
            known = value in self.evaluations or len(self.evaluations) < MOST_DISTINCT
            self.evaluations[value if known else -1] += count

    def result(self) -> Gathered:
        return Gathered(
            outputs=self.outputs,
            failures=self.failures,
            examples={code: top.rows for code, top in self.examples.items()},
            sample=self.sample.rows,
            worst={name: top.rows for name, top in self.worst.items()},
            grid=self.grid.rows,
            distributions=self.distributions,
            shares={name: (int(known), int(yes)) for name, (known, yes) in self.shares.items()},
            evaluations=self.evaluations,
            stop_reasons=self.stop_reasons,
            classes=self.classes,
            schema=self.schema,
        )
