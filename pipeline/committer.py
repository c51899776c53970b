"""Commits under way, several at a time and each with patience: a store may fail for a while."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from queue import SimpleQueue

from pipeline.commit import commit
from workers.records import Piece
from workers.storage import StorageError, Store

STORE_PATIENCE = 60.0
"""Seconds for which the store may fail before a run stops; an object store's client repeats each request by itself."""

LONGEST_PAUSE = 15.0


class Committer:
    """Commits units in the background."""

    def __init__(self, store: Store, round: int):
        self._store = store
        self._round = round
        self._pool = ThreadPoolExecutor(8, "commit")
        self._under_way: dict[Future[bool], int] = {}
        self._ended: SimpleQueue[Future[bool]] = SimpleQueue()

    def __len__(self) -> int:
        """Commits that `done` hasn't given yet."""
        return len(self._under_way)

    def submit(self, unit: int, pieces: Sequence[Piece]) -> None:
        """Commit a unit from the pieces that cover its outputs."""
        future = self._pool.submit(_commit, self._store, self._round, unit, pieces)
        self._under_way[future] = unit
        future.add_done_callback(self._ended.put)

    def done(self) -> list[tuple[int, bool]]:
        """Units whose commit ended since the last call, and whether it was this driver's. Raises StorageError."""
        ended = [self._ended.get() for _ in range(self._ended.qsize())]
        return [(self._under_way.pop(future), future.result()) for future in ended]

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown()


def pause_after(failures: int) -> float:
    """Seconds to wait after so many failures of the store in a row."""
    return min(LONGEST_PAUSE, 2.0 ** (failures - 1))


def _commit(store: Store, round: int, unit: int, pieces: Sequence[Piece]) -> bool:
    began = time.monotonic()
    for failures in count(1):
        try:
            return commit(store, round, unit, pieces)
        except StorageError:
            if time.monotonic() - began > STORE_PATIENCE:
                raise
            time.sleep(pause_after(failures))
    raise AssertionError("unreachable")
