"""Text that grows in a run's folder: appended to one file on a disk, written in segments to an object store."""

from __future__ import annotations

import time
from collections.abc import Callable

from workers.storage import LocalStore, StorageError, Store

SEGMENT_EVERY = 30.0
"""Seconds between segments: an object store can't append."""


class Journal:
    """Appends to the file `name`, or writes `segment(0)`, `segment(1)`, ... where that can't be.

    It is a convenience: a store that fails loses lines, not the run.
    """

    def __init__(self, store: Store, name: str, segment: Callable[[int], str]):
        self._store = store
        self._name = name
        self._segment = segment
        self._pending: list[str] = []
        self._written = time.monotonic()
        self._segments = 0

    def write(self, text: str) -> None:
        """Append some lines."""
        self._pending.append(text)
        if isinstance(self._store, LocalStore) or time.monotonic() - self._written > SEGMENT_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        data = "".join(self._pending).encode(errors="replace")
        try:
            if isinstance(self._store, LocalStore):
                path = self._store.path(self._name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(data)
            elif data:
                self._store.replace(self._segment(self._segments), data)
                self._segments += 1
            self._pending.clear()
        except (StorageError, OSError):
            pass
        self._written = time.monotonic()
