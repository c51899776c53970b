"""Watches a run that goes on elsewhere, from its files alone. No torch, no Ray."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from pipeline.epoch import is_alive, latest_claim
from pipeline.progress.display import Display
from pipeline.progress.event_log import EventReader
from pipeline.progress.tally import Tally
from pipeline.status import NoRunError, Standing, read_standing
from workers.storage import Store

LOOK_EVERY = 3.0
"""Seconds between two looks at the run's files."""

NEWS = 60.0
"""Seconds for which an event is worth telling to somebody who begins to watch."""


class Watch:
    """Follows the run's latest session; its tally is the one that the session's own display has, some seconds later."""

    def __init__(self, store: Store):
        self.tally = Tally()
        self._seen = 0.0
        self._events = EventReader(store)
        self._epoch = -1

    def look(self, shown: Display, *, alive: bool) -> None:
        """Fold in what has happened since the last look, and show it as of now, or as of the end of a dead session."""
        for event in self._events.new():
            self._see(event, shown)
        shown.show(self.tally, max(self._seen, time.time()) if alive else self._seen, final=not alive)

    def _see(self, event: dict[str, Any], shown: Display) -> None:
        if event["epoch"] < self._epoch:
            return  # the last words of a session that was superseded
        if event["epoch"] > self._epoch:
            self._epoch = event["epoch"]
            self.tally = Tally()
        self._seen = datetime.fromisoformat(event["time"]).timestamp()
        self.tally.see(event["event"], event, self._seen)
        if event["event"] != "progress" and time.time() - self._seen < NEWS:
            shown.tell(event["event"], event)


def begun(store: Store) -> Standing:
    """The standing of a run; waits for it while a driver is only about to begin. Raises NoRunError."""
    while True:
        try:
            return read_standing(store)
        except NoRunError:
            claim = latest_claim(store)
            if claim is None or not is_alive(claim):
                raise
        time.sleep(LOOK_EVERY)


def watch(store: Store, shown: Display) -> Standing:
    """Show the run in `store` until no driver works on it; the standing it then has.

    Raises NoRunError, and StorageError if the store fails.
    """
    following = Watch(store)
    while True:
        standing = read_standing(store)
        following.look(shown, alive=standing.alive)
        if not standing.alive:
            return standing
        time.sleep(LOOK_EVERY)
