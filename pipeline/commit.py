"""The commit: one atomic create-if-absent of a unit's part. The parts are the truth; everything else is derived."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.seal import read_sealed, seal
from workers.layout import MANIFEST, part_name, round_folder, unit_of_part
from workers.records import Piece
from workers.storage import Store

GROUP_ROWS = 65_536
"""Rows of a row group of `manifest.parquet`, about."""

_IDENTITY = ("key", "round")


class PartId(NamedTuple):
    """Which part: parts sort by round, then by unit."""

    round: int
    unit: int

    @property
    def name(self) -> str:
        """Its file."""
        return part_name(self.round, self.unit)


def part_of(name: str) -> PartId | None:
    """The part that a file's name stands for, or None if it is no part's."""
    folder, _, _ = name.rpartition("/")
    try:
        part = PartId(int(folder.rpartition("=")[2]), unit_of_part(name))
    except ValueError:
        return None
    return part if part.name == name else None


def list_parts(store: Store, folder: str = "manifest") -> list[PartId]:
    """The parts there are, in order; files that are none are passed over."""
    return sorted(part for entry in store.list(folder) if (part := part_of(entry.name)))


def committed_units(store: Store, round: int) -> set[int]:
    """The units whose parts exist, from their names alone."""
    return {part.unit for part in list_parts(store, round_folder(round))}


def commit(store: Store, round: int, unit: int, pieces: Sequence[Piece]) -> bool:
    """Create the unit's part from the pieces that cover its outputs. False if somebody committed it before.

    Raises StorageError.
    """
    return store.create(part_name(round, unit), seal(_merge(pieces)))


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
    """Latest rows of a run by what became of them, and the parts that hold them and the rows before them."""

    ok: int
    failures: dict[str, int]
    parts: int

    @property
    def failed(self) -> int:
        """Outputs that failed."""
        return sum(self.failures.values())

    @property
    def outputs(self) -> int:
        """All outputs."""
        return self.ok + self.failed


def latest_rows(store: Store, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The latest row of every output, with all columns or those of `columns`, `key` and `round`: a table for each part.

    A later round holds failed outputs again; rows that a later round replaces are left out, and a table may be empty.
    Raises DamagedError, StorageError.
    """
    wanted = None if columns is None else [*_IDENTITY, *columns]
    parts = list_parts(store)
    replaced = _rows_replaced(store, parts)
    for part in parts:
        table = read_sealed(store, part.name, wanted)
        if replaced:
            keep = [replaced.get(key, 0) <= round for key, round in _keys_and_rounds(table)]
            table = table.filter(pa.array(keep))
        yield table


def write_manifest(store: Store) -> Counts:
    """Write `manifest.parquet`, the latest row of every output, atomically; count them on the way."""
    with store.writer(MANIFEST, replace=True) as file:
        return _count(_written(latest_rows(store), file))


def count_outputs(store: Store) -> Counts:
    """Count the latest rows."""
    return _count(latest_rows(store, ["error_code"]))


def _written(tables: Iterator[pa.Table], file: IO[bytes]) -> Iterator[pa.Table]:
    writer: pq.ParquetWriter | None = None
    for group in _groups(tables):
        writer = writer or pq.ParquetWriter(file, group[0].schema, compression="zstd")
        writer.write_table(pa.concat_tables(group))
        yield from group
    if writer:
        writer.close()


def _groups(tables: Iterator[pa.Table]) -> Iterator[list[pa.Table]]:
    """Tables that make a row group together: each takes time to write and has its place in the footer."""
    group: list[pa.Table] = []
    rows = 0
    for table in tables:
        group.append(table)
        rows += table.num_rows
        if rows >= GROUP_ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _count(tables: Iterator[pa.Table]) -> Counts:
    parts, outputs = 0, 0
    failures: Counter[str] = Counter()
    for table in tables:
        parts += 1
        outputs += table.num_rows
        failures.update(table.column("error_code").drop_null().to_pylist())
    return Counts(outputs - failures.total(), dict(sorted(failures.items())), parts)


def _rows_replaced(store: Store, parts: Sequence[PartId]) -> dict[str, int]:
    """Keys that a round after the first holds, with their latest round. Small: only failures are tried again."""
    later = (read_sealed(store, part.name, _IDENTITY) for part in parts if part.round > 0)
    return {key: round for table in later for key, round in _keys_and_rounds(table)}  # parts come in order of rounds


def _keys_and_rounds(table: pa.Table) -> Iterator[tuple[str, int]]:
    return zip(table.column("key").to_pylist(), table.column("round").to_pylist(), strict=True)
