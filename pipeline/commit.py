"""The commit: one atomic create-if-absent of a unit's part. The parts are the truth; everything else is derived."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.layout import MANIFEST, part_name, round_folder, unit_of_part
from workers.records import Piece
from workers.storage import Store


def committed_units(store: Store, round: int) -> set[int]:
    """The units whose parts exist, from their names alone."""
    return {unit_of_part(e.name) for e in store.list(round_folder(round)) if e.name.endswith(".parquet")}


def commit(store: Store, round: int, unit: int, pieces: Sequence[Piece]) -> bool:
    """Create the unit's part from the pieces that cover its outputs. False if somebody committed it before.

    Raises StorageError.
    """
    return store.create(part_name(round, unit), _merge(pieces))


def _merge(pieces: Sequence[Piece]) -> bytes:
    if len(pieces) == 1:
        return pieces[0].part
    tables = [(p.indices, pq.read_table(io.BytesIO(p.part))) for p in pieces]
    rows = pa.concat_tables([table for _, table in tables])
    order = [i for indices, _ in tables for i in indices]
    buffer = io.BytesIO()
    pq.write_table(rows.take(np.argsort(order)), buffer, compression="zstd")
    return buffer.getvalue()


@dataclass(frozen=True)
class Counts:
    """Latest rows of a run by what became of them."""

    ok: int
    failures: dict[str, int]

    @property
    def failed(self) -> int:
        """Outputs that failed."""
        return sum(self.failures.values())

    @property
    def outputs(self) -> int:
        """All outputs."""
        return self.ok + self.failed


def read_parts(store: Store) -> Iterator[pa.Table]:
    """The parts of a run, one table each, rounds in order and units in order within a round."""
    for entry in sorted(store.list("manifest"), key=lambda e: e.name):
        if entry.name.endswith(".parquet"):
            yield pq.read_table(io.BytesIO(store.read(entry.name)))


def latest_rows(store: Store) -> Iterator[pa.Table]:
    """The latest row of every output, table by table.

    A later round holds failed outputs again; rows that a later round replaces are left out.
    """
    replaced = _rows_replaced(store)
    for table in read_parts(store):
        if replaced:
            keep = [replaced.get(key, 0) <= round for key, round in _keys_and_rounds(table)]
            table = table.filter(pa.array(keep))
        if table.num_rows:
            yield table


def write_manifest(store: Store) -> Counts:
    """Write `manifest.parquet`, the latest row of every output, atomically; count them on the way."""
    with store.writer(MANIFEST, replace=True) as file:
        return _count(_written(latest_rows(store), file))


def count_outputs(store: Store) -> Counts:
    """Count the latest rows."""
    return _count(latest_rows(store))


def _written(tables: Iterator[pa.Table], file: IO[bytes]) -> Iterator[pa.Table]:
    writer: pq.ParquetWriter | None = None
    for table in tables:
        writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)
        yield table
    if writer:
        writer.close()


def _count(tables: Iterator[pa.Table]) -> Counts:
    outputs = 0
    failures: Counter[str] = Counter()
    for table in tables:
        outputs += table.num_rows
        failures.update(table.column("error_code").drop_null().to_pylist())
    return Counts(outputs - failures.total(), dict(sorted(failures.items())))


def _rows_replaced(store: Store) -> dict[str, int]:
    """Keys that a round after the first holds, with their latest round. Small: only failures are tried again."""
    latest: dict[str, int] = {}
    for entry in store.list("manifest"):
        if entry.name.endswith(".parquet") and not entry.name.startswith(round_folder(0) + "/"):
            table = pq.read_table(io.BytesIO(store.read(entry.name)), columns=["key", "round"])
            for key, round in _keys_and_rounds(table):
                latest[key] = max(round, latest.get(key, 0))
    return latest


def _keys_and_rounds(table: pa.Table) -> Iterator[tuple[str, int]]:
    return zip(table.column("key").to_pylist(), table.column("round").to_pylist(), strict=True)
