"""A tally as a few lines of a terminal. Pure: what it makes depends on its arguments alone."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.progress import words
from pipeline.progress.tally import Tally

_FREE = 3
"""Columns left free at the right: a terminal writes `^C` where the last line ends, and must not wrap over it."""


def screen(title: str, tally: Tally, now: float, note: str | None = None) -> RenderableType:
    """The lines: each is cut at the terminal's width, none wraps. `note` is the last thing that went wrong."""
    facts = Table.grid(padding=(0, 2), expand=True)
    facts.add_column(style="dim", width=len("stopping"))
    facts.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for label, value in _facts(tally, now):
        if value:
            facts.add_row(label, Text(value))
    if tally.failed:
        facts.add_row("failed", Text(words.by_reason(tally.failures), style="red"))
    if note:
        facts.add_row("last", Text(note, style="yellow"))
    lines = Group(Text(title, style="bold", no_wrap=True, overflow="ellipsis"), _bar(tally), facts)
    return _Narrow(lines)


class _Narrow:
    """Leaves the last columns of the terminal alone; padding would write spaces there."""

    def __init__(self, lines: RenderableType):
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._lines, options.update(width=max(1, options.max_width - _FREE)))


def _bar(tally: Tally) -> RenderableType:
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(total=max(1, tally.total), completed=tally.done, width=None)
    line.add_row(bar, Text(words.progress(tally)))
    return line


def _facts(tally: Tally, now: float) -> list[tuple[str, str | None]]:
    remaining = tally.remaining(now)
    to_go = f"{words.duration(remaining)} to go" if remaining is not None and tally.done < tally.total else None
    so_far = f"{words.duration(now - tally.began)} so far" if tally.began is not None else None
    return [
        ("speed", words.speed(tally, now)),
        ("time", ", ".join(filter(None, (so_far, to_go)))),
        ("workers", words.workers(tally)),
        ("stages", words.stages(tally)),
        ("use", words.load(tally.load)),
        ("stopping", "some seconds for what is in hand; Ctrl-C again: at once" if tally.stopping else None),
    ]
