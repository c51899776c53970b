"""Power loss, as far as it can be tested: only what was synced is left, and all that counts is among it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.commit import committed_units
from pipeline.seal import is_whole
from workers import storage
from workers.records import ImageRef, Output, Piece, Variant, encode_rows, failed_row, ok_row, row_identity, row_schema
from workers.shards import shard_writer
from workers.storage import LocalStore


class Disk:
    """What a folder would hold after the power had gone: contents of synced files, entries of synced folders."""

    def __init__(self, root: Path):
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.entries: dict[Path, dict[str, int]] = {root: {}}

    def sync(self, path: Path) -> None:
        if path.is_dir():
            self.entries[path] = {child.name: child.stat().st_ino for child in path.iterdir()}
        else:
            self.contents[path.stat().st_ino] = path.read_bytes()

    def after_power_loss(self, to: Path) -> LocalStore:
        """A copy of what is left; a file whose entry was synced and whose content wasn't is empty."""
        self._restore(self.root, to)
        return LocalStore(to)

    def _restore(self, folder: Path, to: Path) -> None:
        to.mkdir(parents=True, exist_ok=True)
        for name, inode in self.entries.get(folder, {}).items():
            if (folder / name).is_dir():
                self._restore(folder / name, to / name)
            else:
                (to / name).write_bytes(self.contents.get(inode, b""))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path / "run")
    disk.root.mkdir()
    sync = os.fsync

    def watched(descriptor: int) -> None:
        sync(descriptor)
        disk.sync(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", watched)
    return disk


def steps(store: LocalStore, unit: int) -> list[Callable[[], Any]]:
    """What a worker and the driver do for a unit, in order."""
    from pipeline.commit import commit

    outputs = [Output(ImageRef(f"{unit}-{i}.png"), Variant("")) for i in range(2)]
    identities = [row_identity(o, unit=unit, round=0, attempts=1, run_seed=0) for o in outputs]
    shard = f"shards/{unit:09d}-{unit:016x}.tar"
    made: dict[str, Any] = {}

    def write_shard() -> None:
        with shard_writer(store, shard) as writer:
            writer.add(identities[0]["key"], {"png": bytes([unit]) * 5000})
            made["sha256"] = writer.close()

    def commit_unit() -> None:
        rows = [ok_row(identities[0], {"shard": shard, "shard_sha256": made["sha256"]})]
        rows.append(failed_row(identities[1], "corrupt", "It is damaged."))
        part = encode_rows(rows, row_schema("deepdream"))
        assert commit(store, 0, unit, [Piece((0, 1), part, {}, {})])

    return [write_shard, commit_unit, lambda: store.replace("run.json", b"{}" * unit)]


def assert_nothing_counts_that_is_not_there(left: LocalStore, acknowledged: set[int]) -> None:
    committed = committed_units(left, 0)
    assert acknowledged <= committed, "what was called committed is on the disk"
    for unit in committed:
        data = left.read(f"manifest/round=0/{unit:09d}.parquet")
        assert is_whole(data)
        for row in pq.read_table(io.BytesIO(data)).to_pylist():
            if row["status"] == "ok":
                assert hashlib.sha256(left.read(row["shard"])).hexdigest() == row["shard_sha256"]


def test_whenever_the_power_goes_what_counts_is_whole(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power goes at every sync and at every appearance of a name, so at each moment that could matter."""
    store = LocalStore(disk.root)
    moments = 0
    acknowledged: set[int] = set()

    def look() -> None:
        nonlocal moments
        left = disk.after_power_loss(tmp_path / "left")
        assert_nothing_counts_that_is_not_there(left, acknowledged)
        shutil.rmtree(tmp_path / "left")
        moments += 1

    appear, sync = storage._appear, os.fsync
    monkeypatch.setattr(storage, "_appear", lambda staged, target: (look(), appear(staged, target), look()))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (look(), sync(descriptor), look()))
    for unit in range(4):
        for step in steps(store, unit):
            step()
            look()
        acknowledged.add(unit)
    assert moments > 50 and acknowledged == {0, 1, 2, 3}
