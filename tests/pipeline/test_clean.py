"""Orphans are removed, and nothing else ever is."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.clean import clean
from pipeline.epoch import RunBusyError, latest_claim, take_over
from pipeline.seal import DamagedError, seal
from pipeline.status import NoRunError
from pipeline.verify import verify
from workers.layout import driver_name
from workers.records import encode_rows, row_schema
from workers.storage import LocalStore, open_store

MakeRun = Callable[..., LocalStore]

ORPHANS = ("shards/000000000-0123456789abcdef.tar", "shards/000000007-00ff00ff00ff00ff.tar")
LEFTOVERS = (
    ".0123456789abcdef.staged",
    "plan/.00ff00ff00ff00ff.staged",
    "shards/.0123456789abcdef.staged",
    "manifest/round=1/.0123456789abcdef.staged",
    "drivers/.0123456789abcdef.staged",
)
STRANGERS = (
    "notes.txt",
    "shards/notes.txt",
    "shards/1-0123456789abcdef.tar",
    "shards/000000000-0123456789abcdef.tar.bak",
    "shards/more/000000000-0123456789abcdef.tar",
    "shards/.hidden.tar",
    "shards/.0123456789abcde.staged",
    "other/.0123456789abcdef.staged",
    "other/shards/000000000-0123456789abcdef.tar",
)


@pytest.fixture(scope="module")
def whole(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two rounds."""
    failures = {(1, "dots"): ["corrupt"], (3, "dots"): ["corrupt", "timeout"]}
    return make_run(tmp_path_factory.mktemp("whole") / "run", images=4, rounds=2, failures=failures).root


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy with orphans, leftovers and files that are none of pixgrad's."""
    run = shutil.copytree(whole, tmp_path / "run")
    for name in (*ORPHANS, *LEFTOVERS, *STRANGERS):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"ten bytes.")
    return run


def files(run: Path) -> dict[str, bytes]:
    """What is in the run, apart from claims on it."""
    every = (path for path in run.rglob("*") if path.is_file())
    return {
        name: path.read_bytes() for path in every if not (name := str(path.relative_to(run))).startswith("drivers/0")
    }


def test_orphans_and_leftovers_are_removed_and_all_else_is_kept(run: Path, whole: Path) -> None:
    before = files(run)
    store = LocalStore(run)
    assert verify(store).orphans == len(ORPHANS)
    cleaned = clean(store)
    assert sorted(entry.name for entry in cleaned.orphans) == sorted(ORPHANS)
    assert sorted(entry.name for entry in cleaned.leftovers) == sorted(LEFTOVERS)
    assert cleaned.bytes == 10 * len(ORPHANS + LEFTOVERS)
    assert files(run) == {name: data for name, data in before.items() if name not in ORPHANS + LEFTOVERS}
    report = verify(store)
    assert (report.faults, report.orphans, report.root) == ([], 0, verify(LocalStore(whole)).root)
    again = clean(store)
    assert (again.orphans, again.leftovers, again.bytes) == ([], [], 0)


def test_a_dry_run_removes_nothing(run: Path) -> None:
    before = files(run)
    cleaned = clean(LocalStore(run), dry_run=True)
    assert len(cleaned.orphans) == len(ORPHANS) and len(cleaned.leftovers) == len(LEFTOVERS)
    assert files(run) == before


def test_a_live_driver_is_left_alone(run: Path) -> None:
    before = files(run)
    store = LocalStore(run)
    driver = take_over(store)
    try:
        for dry_run in (True, False):
            with pytest.raises(RunBusyError, match="Another driver"):
                clean(store, dry_run=dry_run)
    finally:
        driver.release(0)
    assert files(run) == before


def test_the_claim_is_held_and_given_up(run: Path) -> None:
    store = LocalStore(run)
    clean(store)
    claim = latest_claim(store)
    assert claim is not None and claim.exit_code == 0
    (run / "manifest" / "round=0" / "000000000.parquet").write_bytes(b"")
    with pytest.raises(DamagedError):
        clean(store)
    claim = latest_claim(store)
    assert claim is not None and (claim.epoch, claim.exit_code) == (1, 1)


def test_a_driver_that_takes_over_stops_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when this process was silent for so long that another took it for dead."""
    store = LocalStore(run)
    deleted: list[str] = []

    def delete(name: str) -> None:
        deleted.append(name)
        store.create(driver_name(1), b"of another driver")

    monkeypatch.setattr(store, "delete", delete)
    with pytest.raises(RunBusyError, match="has taken over"):
        clean(store)
    assert len(deleted) == 1


@pytest.mark.parametrize("length", [0, 100, -20, -1])
@pytest.mark.parametrize("name", ["round=0/000000001.parquet", "round=1/000000000.parquet"])
def test_nothing_is_removed_beside_a_torn_part(run: Path, name: str, length: int) -> None:
    part = run / "manifest" / name
    part.write_bytes(part.read_bytes()[:length])
    before = files(run)
    with pytest.raises(DamagedError, match=f"{name} is damaged"):
        clean(LocalStore(run))
    assert files(run) == before


def test_nothing_is_removed_beside_a_part_in_anothers_place(run: Path) -> None:
    parts = run / "manifest" / "round=0"
    shutil.copy(parts / "000000000.parquet", parts / "000000001.parquet")
    before = files(run)
    with pytest.raises(DamagedError, match="rows of another part"):
        clean(LocalStore(run))
    assert files(run) == before


def test_a_part_without_a_shard_column_is_refused(run: Path) -> None:
    part = run / "manifest" / "round=0" / "000000001.parquet"
    buffer = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(part.read_bytes())).drop_columns(["shard"]), buffer)
    part.write_bytes(seal(buffer.getvalue()))
    with pytest.raises(DamagedError, match="lacks the columns shard"):
        clean(LocalStore(run))


def test_nothing_is_removed_where_a_part_is_lost(run: Path) -> None:
    """Its shards look like orphans."""
    (run / "manifest" / "round=1" / "000000000.parquet").unlink()
    before = files(run)
    with pytest.raises(DamagedError, match="3 of the 4 parts"):
        clean(LocalStore(run))
    assert files(run) == before


def test_shards_of_a_unit_that_is_not_committed_are_orphans(run: Path) -> None:
    (run / "run.json").write_text((run / "run.json").read_text().replace('"complete"', '"unfinished"'))
    for round in (0, 1):
        (run / "manifest" / f"round={round}" / "000000001.parquet").unlink()
    names = {f"shards/{path.name}" for path in (run / "shards").glob("000000001-*.tar")}
    assert names and {entry.name for entry in clean(LocalStore(run)).orphans} == names | set(ORPHANS)


def test_what_is_written_meanwhile_is_kept(run: Path) -> None:
    """A write that began after the claim isn't a leftover: it may still be going on."""
    staged = run / "shards" / ".aaaaaaaaaaaaaaaa.staged"
    staged.write_bytes(b"")
    os.utime(staged, (2**32, 2**32))
    assert "shards/.aaaaaaaaaaaaaaaa.staged" not in {entry.name for entry in clean(LocalStore(run)).leftovers}
    assert staged.exists()


@pytest.mark.parametrize("damage", [b"{", b"\xff", b"[]"])
def test_a_damaged_run_file_is_refused(run: Path, damage: bytes) -> None:
    (run / "run.json").write_bytes(damage)
    before = files(run)
    with pytest.raises(DamagedError, match=r"run\.json is damaged"):
        clean(LocalStore(run))
    assert files(run) == before and not list((run / "drivers").glob("*.json"))


def test_a_folder_that_is_no_run_gets_no_claim(tmp_path: Path) -> None:
    with pytest.raises(NoRunError):
        clean(LocalStore(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_part_names_nothing(run: Path) -> None:
    part = run / "manifest" / "round=1" / "000000001.parquet"
    part.write_bytes(seal(encode_rows([], row_schema("style"))))
    assert clean(LocalStore(run)).orphans


def test_in_a_bucket(run: Path, make_bucket: Callable[[], str]) -> None:
    store = open_store(f"{make_bucket()}/run")
    for entry in LocalStore(run).list():
        assert store.create(entry.name, LocalStore(run).read(entry.name))
    assert sorted(entry.name for entry in clean(store).orphans) == sorted(ORPHANS)
    left = {entry.name for entry in store.list()}
    assert not left & set(ORPHANS) and "shards/notes.txt" in left
    report = verify(store)
    assert report.faults == [] and report.orphans == 0
