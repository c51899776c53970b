"""The facts of a report, in one pass over the rows, in memory that doesn't grow with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
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
"""Images with failed outputs shown for each reason."""

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
    parts: int
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


@dataclass(frozen=True)
class Asked:
    """What the rows are of: how many `variants` an image has, in a grid or not; the column with their class, if any."""

    variants: int
    is_grid: bool = False
    class_column: str | None = None


def gather(tables: Iterable[pa.Table], measures: Sequence[Measure], asked: Asked, *, seed: int) -> Gathered:
    """Go once through the latest rows of a run; the samples follow from `seed` and the outputs' identities alone."""
    gathering = _Gathering(measures, asked, seed)
    for table in tables:
        gathering.parts += 1
        if table.num_rows:
            gathering.add(table)
    return gathering.result()


@dataclass
class _Gathering:
    measures: Sequence[Measure]
    asked: Asked
    seed: int
    outputs: int = 0
    parts: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    evaluations: Counter[int] = field(default_factory=Counter)
    stop_reasons: Counter[str] = field(default_factory=Counter)
    schema: pa.Schema | None = None

    def __post_init__(self) -> None:
        self.sample = TopRows(SAMPLE)
        self.grid = TopRows(GRID_CONTENTS * self.asked.variants)
        self.examples: dict[str, TopRows] = {}
        self.worst = {m.name: TopRows(WORST) for m in self.measures if m.worst}
        self.shares = {m.name: np.zeros(2, dtype=np.int64) for m in self.measures if m.scale == "yes or no"}
        self.distributions = {
            m.name: Distribution(logarithmic=m.scale == "log", limit=m.limit)
            for m in self.measures
            if m.scale != "yes or no"
        }
        self.classes = Classes(column, len(self.measures)) if (column := self.asked.class_column) else None

    def add(self, table: pa.Table) -> None:
        self.outputs += table.num_rows
        self.schema = self.schema or table.schema
        table = table.combine_chunks()
        values = [measure.values(table) for measure in self.measures]
        failed = table.column("error_code").is_valid().to_numpy()
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
        if self.asked.is_grid:
            self.grid.offer(table, self._image_scores(table))

    def _image_scores(self, table: pa.Table) -> NDArray[np.float64]:
        """Scores that all outputs of an image share, so that images are drawn with all their variants."""
        members = (member or "" for member in table.column("member").to_pylist())
        images = map("\n".join, zip(table.column("uri").to_pylist(), members, strict=True))
        return random_scores(self.seed, images)

    def _fail(self, table: pa.Table) -> None:
        codes = np.array(table.column("error_code").to_pylist())
        scores = self._image_scores(table)
        for code, count in Counter(codes.tolist()).items():
            self.failures[code] += count
            top = self.examples.setdefault(code, TopRows(EXAMPLES * self.asked.variants))
            top.offer(table, np.where(codes == code, scores, np.nan))

    def _count_evaluations(self, table: pa.Table) -> None:
        for value, count in Counter(table.column("evaluations").drop_null().to_pylist()).items():
            known = value in self.evaluations or len(self.evaluations) < MOST_DISTINCT
            self.evaluations[value if known else -1] += count

    def result(self) -> Gathered:
        return Gathered(
            outputs=self.outputs,
            parts=self.parts,
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
