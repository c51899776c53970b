"""Shows a tally: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from pipeline.progress.tally import Tally
from pipeline.progress.words import sentence

LINE_EVERY = 5.0
"""Seconds between plain lines."""


class Display(Protocol):
    """Shows a tally now and then."""

    def show(self, tally: Tally, *, final: bool = False) -> None:
        """The tally as it is now."""
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
            self._console.print(sentence(tally), highlight=False, markup=False, soft_wrap=True)

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
        self._bar.update(self._task, total=tally.total or None, completed=tally.done, text=sentence(tally))

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._bar.stop()


def display(console: Console, name: str) -> Display:
    """A bar if the console is a terminal, else lines."""
    return Bar(console, name) if console.is_terminal else Lines(console)
