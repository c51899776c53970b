"""The run's event log."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from workers.layout import EVENTS, event_segment
from workers.storage import LocalStore, StorageError, Store

LOG_EVERY = 30.0
"""Seconds between writes of the event log to an object store."""


class EventLog:
    """The run's events, a line of JSON each: appended to `events.jsonl` on a disk.

    An object store can't append: there each session writes segments, `events/<epoch>-<n>.jsonl`, every half minute.
    """

    def __init__(self, store: Store, epoch: int):
        self._store = store
        self._epoch = epoch
        self._pending: list[str] = []
        self._written = time.monotonic()
        self._segments = 0

    def add(self, name: str, facts: Mapping[str, Any]) -> None:
        """Log an event."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._pending.append(json.dumps({"time": now, "epoch": self._epoch, "event": name, **facts}, default=str))
        if isinstance(self._store, LocalStore) or time.monotonic() - self._written > LOG_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is pending. The log is a convenience: a store that fails loses lines, not the run."""
        data = "".join(line + "\n" for line in self._pending).encode()
        try:
            if isinstance(self._store, LocalStore):
                with self._store.path(EVENTS).open("ab") as file:
                    file.write(data)
            elif data:
                self._store.replace(event_segment(self._epoch, self._segments), data)
                self._segments += 1
            self._pending.clear()
        except (StorageError, OSError):
            pass
        self._written = time.monotonic()
