"""Listens to the driver."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pipeline.plan import Feed
from pipeline.progress.display import Display
from pipeline.progress.event_log import EventLog
from pipeline.progress.tally import Tally


class Monitor:
    """Listens to the driver: keeps the tally, the display and the event log."""

    def __init__(self, log: EventLog, display: Display):
        self.tally = Tally()
        self._log = log
        self._display = display

    def event(self, name: str, **facts: Any) -> None:
        """Log an event."""
        self._log.add(name, facts)

    def acked(self, outputs: int) -> None:
        """Outputs were processed."""
        self.tally.first_ack = self.tally.first_ack or time.monotonic()
        self.tally.acked += outputs
        self.tally.made += outputs

    def committed(self, unit: int, outputs: int, failures: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """A unit was committed."""
        self.tally.committed += outputs
        self.tally.acked = max(0, self.tally.acked - outputs)
        self.tally.failures.update(failures)
        spent = {stage: round(s, 3) for stage, s in seconds.items()}
        self._log.add("committed", {"unit": unit, "outputs": outputs, "failures": dict(failures), "seconds": spent})

    def turn(self, workers: int, feed: Feed) -> None:
        """The driver's loop went round."""
        self.tally.workers = workers
        self.tally.total, self.tally.before, self.tally.listing = feed.outputs, feed.committed_outputs, feed.listing
        self._display.show(self.tally)

    def close(self) -> None:
        """The end of the session."""
        self._display.show(self.tally, final=True)
        self._display.close()
        self._log.flush()
