"""The commit: one create-if-absent of a part; everything else is read back from parts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.commit import Counts, commit, committed_units, count_outputs, list_parts, write_manifest
from pipeline.seal import DamagedError
from workers.layout import MANIFEST, part_name
from workers.records import ImageRef, Output, Piece, Variant, encode_rows, failed_row, ok_row, row_identity, row_schema
from workers.storage import LocalStore, encode

SCHEMA = row_schema("deepdream")


def piece(unit: int, indices: list[int], *, code: str | None = None, round: int = 0) -> Piece:
    rows = []
    for index in indices:
        output = Output(ImageRef(f"{unit}-{index}.jpg"), Variant(""))
        identity = row_identity(output, unit=unit, round=round, attempts=1, run_seed=0)
        rows.append(failed_row(identity, code, "sentence") if code else ok_row(identity, {"shard": f"{unit}.tar"}))
    return Piece(tuple(indices), encode_rows(rows, SCHEMA), {}, {})


def uris(store: LocalStore, unit: int) -> list[str]:
    return pq.read_table(store.path(part_name(0, unit))).column("uri").to_pylist()


def test_pieces_make_one_part_in_the_order_of_the_unit(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert commit(store, 0, 5, [piece(5, [2, 3]), piece(5, [1], code="worker_died"), piece(5, [0])])
    assert uris(store, 5) == [f"5-{i}.jpg" for i in range(4)]
    assert committed_units(store, 0) == {5}


def test_of_many_commits_of_a_unit_one_counts(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda _: commit(store, 0, 1, [piece(1, [0, 1])]), range(24)))
    assert won.count(True) == 1
    assert not list(tmp_path.rglob("*.staged"))


def test_the_manifest_has_the_latest_row_of_every_output(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    commit(store, 0, 0, [piece(0, [0]), piece(0, [1], code="corrupt")])
    commit(store, 0, 1, [piece(1, [0], code="empty")])
    assert write_manifest(store).failures == {"corrupt": 1, "empty": 1}
    commit(store, 1, 0, [piece(0, [1], round=1)])  # tried again with success
    counts = write_manifest(store)
    assert (counts.ok, counts.failures, counts.outputs) == (2, {"empty": 1}, 3)
    assert count_outputs(store) == counts
    rows = {row["uri"]: row for row in pq.read_table(store.path(MANIFEST)).to_pylist()}
    assert len(rows) == 3 and rows["0-1.jpg"]["status"] == "ok" and rows["0-1.jpg"]["round"] == 1


def test_a_run_without_parts_counts_nothing(tmp_path: Path) -> None:
    assert count_outputs(LocalStore(tmp_path)).outputs == 0
    assert committed_units(LocalStore(tmp_path), 0) == set()


def test_rounds_come_in_order_of_their_numbers(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    commit(store, 0, 0, [piece(0, [0, 1], code="empty")])
    for round in (10, 2, 1, 9):
        commit(store, round, 0, [piece(0, [0], code=f"of_{round}", round=round)])
    assert [part.round for part in list_parts(store)] == [0, 1, 2, 9, 10]
    assert count_outputs(store) == write_manifest(store) == Counts(0, {"empty": 1, "of_10": 1}, parts=5)


def test_files_that_are_no_parts_are_passed_over(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    commit(store, 0, 3, [piece(3, [0])])
    for name in (
        "000000003 (copy).parquet",
        "4.parquet",
        "000000005.parquet.bak",
        "more/000000006.parquet",
        "x.parquet",
    ):
        store.create(f"manifest/round=0/{encode(name)}", b"")
    store.create("manifest/round=00/000000007.parquet", b"")
    assert committed_units(store, 0) == {3} and list_parts(store) == [(0, 3)]
    assert count_outputs(store).outputs == 1


def test_a_damaged_part_is_told_in_one_sentence(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    commit(store, 0, 3, [piece(3, [0])])
    file = store.path(part_name(0, 3))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=r"round=0/000000003\.parquet is damaged .* restore it"):
        count_outputs(store)
