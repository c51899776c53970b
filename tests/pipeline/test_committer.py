"""Commits in the background, with patience for a store that fails for a while."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline import committer
from pipeline.commit import commit, committed_units
from pipeline.committer import Committer, pause_after
from workers.records import ImageRef, Output, Piece, Variant, encode_rows, ok_row, row_identity, row_schema
from workers.storage import LocalStore, StorageError


class Failing(LocalStore):
    """Fails so many times before it works."""

    def __init__(self, root: Path, failures: int):
        super().__init__(root)
        self.failures = failures

    def create(self, name: str, data: bytes) -> bool:
        if self.failures:
            self.failures -= 1
            raise StorageError(f"Can't write {self.url}/{name}: it is out of order.")
        return super().create(name, data)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "pause_after", lambda failures: 0.001)


def piece(unit: int) -> Piece:
    identity = row_identity(Output(ImageRef(f"{unit}.jpg"), Variant("")), unit=unit, round=0, attempts=1, run_seed=0)
    return Piece((0,), encode_rows([ok_row(identity, {})], row_schema("deepdream")), {}, {})


def wait_for(commits: Committer) -> list[tuple[int, bool]]:
    found: list[tuple[int, bool]] = []
    deadline = time.monotonic() + 30
    while len(commits) and time.monotonic() < deadline:
        found += commits.done()
    return sorted(found)


def test_a_store_that_fails_for_a_while_costs_nothing(tmp_path: Path) -> None:
    store = Failing(tmp_path, failures=20)
    commits = Committer(store, 0)
    for unit in range(12):
        commits.submit(unit, [piece(unit)])
    assert wait_for(commits) == [(unit, True) for unit in range(12)]
    assert committed_units(store, 0) == set(range(12)) and store.failures == 0
    commits.close()


def test_a_store_that_fails_for_good_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "STORE_PATIENCE", 0.05)
    store = Failing(tmp_path, failures=10**9)
    commits = Committer(store, 0)
    commits.submit(0, [piece(0)])
    with pytest.raises(StorageError, match="out of order"):
        wait_for(commits)
    assert store.failures < 10**9 - 1, "it was tried again"
    commits.close()


def test_a_unit_that_another_committed_is_told_apart(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    commit(store, 0, 1, [piece(1)])
    commits = Committer(store, 0)
    for unit in range(3):
        commits.submit(unit, [piece(unit)])
    assert wait_for(commits) == [(0, True), (1, False), (2, True)]
    commits.close()


def test_pauses_grow_up_to_a_limit() -> None:
    pauses = [pause_after(failures) for failures in range(1, 200)]
    assert pauses[0] <= 1 and pauses == sorted(pauses) and pauses[-1] == committer.LONGEST_PAUSE
