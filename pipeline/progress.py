"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere; and the run's event log."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from pipeline.plan import Feed
from workers.layout import EVENTS, event_segment
from workers.storage import LocalStore, StorageError, Store

LINE_EVERY = 5.0
"""Seconds between plain lines."""

LOG_EVERY = 30.0
"""Seconds between writes of the event log to an object store."""


@dataclass
class Tally:
    """Counts of outputs.

    `total` grows while the source is being listed. `before` were committed by former sessions, `committed` by this one;
    `acked` are done and about to be committed; `made` are all that this session has done.
    """

    total: int = 0
    listing: bool = True
    before: int = 0
    committed: int = 0
    acked: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    workers: int = 0
    first_ack: float | None = None
    made: int = 0

    @property
    def done(self) -> int:
        """Outputs processed: committed, or acknowledged and about to be."""
        return min(self.total, self.before + self.committed + self.acked)

    @property
    def failed(self) -> int:
        """Failed outputs of this session."""
        return self.failures.total()

    def rate(self, now: float) -> float | None:
        """Outputs a second since this session's first, so without loading the model; None before the second."""
        if self.first_ack is None or self.made < 2 or now <= self.first_ack:
            return None
        return (self.made - 1) / (now - self.first_ack)

    def remaining(self, now: float) -> float | None:
        """Seconds to go, if that can be said."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate else None


class Display(Protocol):
    """Shows a tally now and then."""

    def show(self, tally: Tally, *, final: bool = False) -> None:
        """The tally as it is now."""
        ...

    def say(self, sentence: str) -> None:
        """Something that people should know now."""
        ...

    def close(self) -> None:
        """Nothing more to show."""
        ...


class Lines:
    """A plain line every few seconds, for logs."""

    def __init__(self, console: Console):
        self._console = console
        self._last = 0.0

    def show(self, tally: Tally, *, final: bool = False) -> None:
        """Print a line if it is time."""
        if final or time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            self._console.print(_sentence(tally), highlight=False, markup=False, soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Print it as a line of its own."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to tidy up."""


class Bar:
    """A bar on a terminal."""

    def __init__(self, console: Console, name: str):
        self._bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=32), TextColumn("{task.fields[text]}"),
            console=console, transient=False,
        )  # fmt: skip
        self._task = self._bar.add_task(escape(name), total=None, text="starting")
        self._bar.start()

    def show(self, tally: Tally, *, final: bool = False) -> None:
        """Redraw."""
        self._bar.update(self._task, total=tally.total or None, completed=tally.done, text=_sentence(tally))

    def say(self, sentence: str) -> None:
        """Print it above the bar."""
        self._bar.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._bar.stop()


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


class Monitor:
    """Listens to the driver: keeps the tally, the display and the event log."""

    def __init__(self, log: EventLog, display: Display):
        self.tally = Tally()
        self._log = log
        self._display = display

    def event(self, name: str, **facts: Any) -> None:
        """Log an event; the sentence of one that has it is for people, too."""
        self._log.add(name, facts)
        if "sentence" in facts:
            self._display.say(facts["sentence"])

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


def display(console: Console, name: str) -> Display:
    """A bar if the console is a terminal, else lines."""
    return Bar(console, name) if console.is_terminal else Lines(console)


def duration(seconds: float) -> str:
    """Seconds for people: 48 s, 12 min, 3.4 h, 2.1 days."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (129_600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def _sentence(tally: Tally) -> str:
    now = time.monotonic()
    parts = [f"{tally.done}/{tally.total}{'+' if tally.listing else ''} outputs"]
    if tally.failed:
        parts.append(f"{tally.failed} failed")
    rate, remaining = tally.rate(now), tally.remaining(now)
    if rate:
        parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min")
    if remaining and not tally.listing:
        parts.append(f"{duration(remaining)} to go")
    parts.append(f"{tally.workers} worker{'' if tally.workers == 1 else 's'}" if tally.workers else "workers starting")
    return " · ".join(parts)
