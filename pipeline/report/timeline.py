"""How fast a run went and where its time went, from its event log, the times between sessions left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from workers.layout import EVENTS
from workers.storage import MissingError, StorageError, Store

INTERVALS = 72
"""Bars of the throughput chart, at most."""


@dataclass
class Session:
    """One driver's time: when its first and last event were (seconds since 1970), and the outputs it committed."""

    start: float
    end: float
    outputs: int = 0


@dataclass
class Timeline:
    """The events of a run. `commits` are (epoch, time, outputs); `seconds` are summed by stage, `events` counted."""

    sessions: dict[int, Session] = field(default_factory=dict)
    commits: list[tuple[int, float, int]] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    @property
    def work_seconds(self) -> float:
        """From the first to the last event of each session, added up."""
        return sum(session.end - session.start for session in self.sessions.values())

    @property
    def outputs(self) -> int:
        """Outputs committed, those of later rounds again."""
        return sum(session.outputs for session in self.sessions.values())

    @property
    def rate(self) -> float | None:
        """Outputs a second of work; None if that can't be said."""
        return self.outputs / self.work_seconds if self.work_seconds > 0 and self.outputs else None


@dataclass(frozen=True)
class Throughput:
    """Outputs a second in intervals of equal length (seconds) of work; `breaks`: where another session begins."""

    rates: list[float]
    interval: float
    breaks: list[float]

    @property
    def total(self) -> float:
        """All of the work, in seconds."""
        return self.interval * len(self.rates)


def read_timeline(store: Store) -> Timeline:
    """The timeline of a run. A log is a convenience: one that is missing or damaged gives what can be read of it."""
    timeline = Timeline()
    for event in _events(store):
        try:
            _add(timeline, event)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return timeline


def throughput(timeline: Timeline) -> Throughput | None:
    """How the rate went; None without two commits.

    Outputs count evenly over the time since the commit before, in which they were made: a unit is committed at once.
    """
    if len(timeline.commits) < 2 or timeline.work_seconds <= 0:
        return None
    times, totals, breaks = _cumulative(timeline)
    intervals = min(INTERVALS, len(timeline.commits))
    edges = np.linspace(0, timeline.work_seconds, intervals + 1)
    width = timeline.work_seconds / intervals
    rates = np.diff(np.interp(edges, times, totals)) / width
    return Throughput(rates.tolist(), width, breaks)


def _cumulative(timeline: Timeline) -> tuple[Sequence[float], Sequence[int], list[float]]:
    """Outputs made until each moment of work; and the moments at which sessions after the first begin."""
    starts: dict[int, float] = {}
    worked = 0.0
    for epoch, session in sorted(timeline.sessions.items()):
        starts[epoch] = worked
        worked += session.end - session.start
    moments = sorted((starts[epoch] + time - timeline.sessions[epoch].start, n) for epoch, time, n in timeline.commits)
    points = sorted([(0.0, 0), *((start, 0) for start in starts.values()), *moments])
    times, counts = zip(*points, strict=True)
    return times, np.cumsum(counts).tolist(), sorted(starts.values())[1:]


def _add(timeline: Timeline, event: dict[str, Any]) -> None:
    time, epoch, name = datetime.fromisoformat(event["time"]).timestamp(), int(event["epoch"]), str(event["event"])
    outputs, seconds = 0, {}
    if name == "committed":
        outputs = int(event["outputs"])
        seconds = {str(stage): float(value) for stage, value in event["seconds"].items()}
    session = timeline.sessions.setdefault(epoch, Session(time, time))
    session.start, session.end = min(session.start, time), max(session.end, time)
    if name == "committed":
        session.outputs += outputs
        timeline.commits.append((epoch, time, outputs))
        timeline.seconds.update(seconds)
    timeline.events[name] += 1


def _events(store: Store) -> Iterator[dict[str, Any]]:
    for line in _lines(store):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            continue  # a session that was killed while it wrote


def _lines(store: Store) -> Iterable[bytes]:
    try:
        with store.open(EVENTS) as file:
            yield from file
    except MissingError:
        for entry in store.list("events"):
            yield from store.read(entry.name).splitlines()
    except (StorageError, OSError):
        return
