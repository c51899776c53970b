"""Shows a tally: a few lines that stay in place on a terminal, a line now and then elsewhere, or JSON lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live

from pipeline.progress.event_log import event_line
from pipeline.progress.screen import screen
from pipeline.progress.style import Style
from pipeline.progress.tally import Tally
from pipeline.progress.words import sentence, trouble

LINE_EVERY = 5.0
"""Seconds between plain lines at first."""

SLOWEST_LINE = 60.0
"""Seconds between plain lines of a run that takes long."""

FRAME_EVERY = 0.25
"""Seconds between redraws of a terminal."""


class Display(Protocol):
    """Shows a tally now and then."""

    def show(self, tally: Tally, now: float, *, final: bool = False) -> None:
        """The tally as it is now; `final`: for the last time."""
        ...

    def tell(self, event: str, facts: Mapping[str, Any]) -> None:
        """An event has happened."""
        ...

    def close(self) -> None:
        """Nothing more to show."""
        ...


class Lines:
    """A plain line every few seconds, for logs; more rarely when it goes on for long."""

    def __init__(self, console: Console):
        self._console = console
        self._began = time.monotonic()
        self._last = 0.0

    def show(self, tally: Tally, now: float, *, final: bool = False) -> None:
        """Print a line if it is time, and there is something to tell."""
        clock = time.monotonic()
        pause = min(SLOWEST_LINE, max(LINE_EVERY, (clock - self._began) / 12))
        if tally.total and (final or clock - self._last >= pause):
            self._last = clock
            self._print(sentence(tally, now))

    def tell(self, event: str, facts: Mapping[str, Any]) -> None:
        """Print what a person should hear of."""
        if told := trouble(event, facts):
            self._print(told)

    def close(self) -> None:
        """Nothing to tidy up."""

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class JsonLines:
    """The same as objects of JSON, a line each: `progress` every few seconds, and the events between."""

    def __init__(self, console: Console):
        self._console = console
        self._last = 0.0

    def show(self, tally: Tally, now: float, *, final: bool = False) -> None:
        """Print a line if it is time."""
        if tally.total and (final or time.monotonic() - self._last >= LINE_EVERY):
            self._last = time.monotonic()
            self._print("progress", tally.facts(now))

    def tell(self, event: str, facts: Mapping[str, Any]) -> None:
        """Print the event, without details: the log has them."""
        self._print(event, {name: value for name, value in facts.items() if name != "details"})

    def close(self) -> None:
        """Nothing to tidy up."""

    def _print(self, name: str, facts: Mapping[str, Any]) -> None:
        self._console.file.write(event_line(name, facts))
        self._console.file.flush()


class Screen:
    """A few lines on a terminal, redrawn in place; the last state stays."""

    def __init__(self, console: Console, title: str):
        self._title = title
        self._note: str | None = None
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, tally: Tally, now: float, *, final: bool = False) -> None:
        """Redraw if it is time."""
        if final or time.monotonic() - self._drawn >= FRAME_EVERY:
            self._drawn = time.monotonic()
            self._live.update(screen(self._title, tally, now, self._note), refresh=True)

    def tell(self, event: str, facts: Mapping[str, Any]) -> None:
        """The last thing that went wrong is on the screen."""
        if told := trouble(event, facts):
            self._note = f"{time.strftime('%H:%M')} {told}"

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._live.stop()


class Nothing:
    """No display."""

    def show(self, tally: Tally, now: float, *, final: bool = False) -> None:
        """Not shown."""

    def tell(self, event: str, facts: Mapping[str, Any]) -> None:
        """Not told."""

    def close(self) -> None:
        """Nothing to tidy up."""


@contextmanager
def display(console: Console, title: str, style: Style = Style.AUTO) -> Iterator[Display]:
    """The display of a style, on a console, for the block."""
    shown = _open(console, title, style)
    try:
        yield shown
    finally:
        shown.close()


def resolved(console: Console, style: Style) -> Style:
    """What `auto` stands for: a dumb terminal can't draw in place, whatever the environment says of colours."""
    if style is not Style.AUTO:
        return style
    can_draw = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
    return Style.LIVE if can_draw else Style.PLAIN


def _open(console: Console, title: str, style: Style) -> Display:
    match resolved(console, style):
        case Style.LIVE:
            return Screen(console, title)
        case Style.JSON:
            return JsonLines(console)
        case Style.NONE:
            return Nothing()
    return Lines(console)
