"""Listens to the driver: keeps the tally, shows it, and writes down what happened."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pipeline.plan import Feed
from pipeline.progress.display import Display
from pipeline.progress.event_log import EventLog
from pipeline.progress.run_log import log_event
from pipeline.progress.tally import DEATHS, Load, Tally
from workers.assembly import Pulse
from workers.usage import Usage

PROGRESS_EVERY = 30.0
"""Seconds between `progress` events, from which others see how a run gets on."""


class Monitor:
    """The driver's listener. `gpus`: of one worker."""

    def __init__(self, log: EventLog, display: Display, gpus: float = 0.0):
        self.tally = Tally(gpus=gpus)
        self._log = log
        self._display = display
        self._usages: dict[str, Usage] = {}
        self._noted: float | None = None

    def event(self, name: str, **facts: Any) -> None:
        """Note an event."""
        self.tally.see(name, facts, time.monotonic())
        if name in DEATHS:
            self._usages.pop(facts["worker"], None)
            self._weigh()
        self._log.add(name, facts)
        log_event(name, facts)
        self._display.tell(name, facts)

    def acked(self, outputs: int) -> None:
        """Outputs were processed."""
        self.tally.ack(outputs, time.monotonic())

    def committed(self, unit: int, outputs: int, failures: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """A unit was committed."""
        spent = {stage: round(s, 3) for stage, s in seconds.items()}
        self.event("committed", unit=unit, outputs=outputs, failures=dict(failures), seconds=spent)

    def pulse(self, worker: str, pulse: Pulse) -> None:
        """A worker has told what it takes."""
        if pulse.usage:
            self._usages[worker] = pulse.usage
            self._weigh()

    def turn(self, workers: int, feed: Feed) -> None:
        """The driver's loop went round."""
        now = time.monotonic()
        tally = self.tally
        tally.workers = workers
        tally.total, tally.before, tally.listing = feed.outputs, feed.committed_outputs, not feed.listed
        if tally.total and (self._noted is None or now - self._noted >= PROGRESS_EVERY):
            self._note_progress(now)
        self._display.show(tally, now)

    def close(self) -> None:
        """The end of the session."""
        now = time.monotonic()
        self._note_progress(now)
        self._display.show(self.tally, now, final=True)
        self._log.flush()

    def _weigh(self) -> None:
        self.tally.load = Load.of(self._usages.values()) if self._usages else None

    def _note_progress(self, now: float) -> None:
        self._noted = now
        self._log.add("progress", self.tally.facts(now))
