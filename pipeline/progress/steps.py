"""Shows the steps of an audit: in place on a terminal, a line each elsewhere, or as JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from rich.console import Console

from pipeline.progress.display import resolved
from pipeline.progress.event_log import event_line
from pipeline.progress.run_log import logger
from pipeline.progress.style import Style
from workers.audit import Step

BEGINNING = "Checking the axioms on a sample of the images …"

Tell = Callable[[Step], None]


@contextmanager
def shown_steps(console: Console, style: Style = Style.AUTO) -> Iterator[Tell]:
    """Tells of a step, on a console and in the session's log if there is one."""
    with _shown(console, resolved(console, style)) as show:

        def tell(step: Step) -> None:
            logger.info(step.words)
            show(step)

        yield tell


@contextmanager
def _shown(console: Console, style: Style) -> Iterator[Tell]:
    match style:
        case Style.LIVE:
            with console.status(BEGINNING) as status:
                yield lambda step: status.update(f"{step.words} …")
        case Style.JSON:
            yield lambda step: _write(console, event_line("axioms", asdict(step)))
        case Style.NONE:
            yield lambda step: None
        case _:
            _print(console, BEGINNING)
            yield lambda step: _print(console, step.words)


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _write(console: Console, line: str) -> None:
    console.file.write(line)
    console.file.flush()
