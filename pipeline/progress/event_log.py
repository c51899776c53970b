"""The run's events, a line of JSON each: `events.jsonl`, or segments of it in an object store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pipeline.progress.journal import Journal
from workers.layout import EVENTS, event_segment
from workers.storage import LocalStore, MissingError, Store

READ_BYTES = 4 * 2**20


class EventLog:
    """Writes the events of one session."""

    def __init__(self, store: Store, epoch: int):
        self._epoch = epoch
        self._journal = Journal(store, EVENTS, partial(event_segment, epoch))

    def add(self, name: str, facts: Mapping[str, Any]) -> None:
        """Log an event."""
        self._journal.write(event_line(name, facts, epoch=self._epoch))

    def flush(self) -> None:
        """Write what is pending."""
        self._journal.flush()


def event_line(name: str, facts: Mapping[str, Any], **more: Any) -> str:
    """An event as a line of JSON, with its time in UTC."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, **more, "event": name, **facts}, default=str) + "\n"


class EventReader:
    """Reads a run's events as they come, from its files."""

    def __init__(self, store: Store):
        self._store = store
        self._offset = 0
        self._rest = b""
        self._segment: str | None = None

    def new(self) -> Iterator[dict[str, Any]]:
        """The events since the last call. A line that was torn when its writer died is left out."""
        pieces = self._appended() if isinstance(self._store, LocalStore) else self._segments()
        for data in pieces:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue

    def _appended(self) -> Iterator[bytes]:
        try:
            while data := self._store.read(EVENTS, self._offset, READ_BYTES):
                self._offset += len(data)
                yield data
        except MissingError:
            return

    def _segments(self) -> Iterator[bytes]:
        for entry in self._store.list("events", self._segment):
            self._segment = entry.name
            yield self._store.read(entry.name)
