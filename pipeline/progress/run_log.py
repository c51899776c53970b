"""The session's log, `logs/<epoch>.log`: what Python's logging says, for whoever wants to know what went wrong."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from pipeline.progress.journal import Journal
from pipeline.progress.words import by_reason, trouble
from workers.layout import log_name, log_segment
from workers.storage import Store

logger = logging.getLogger("pixgrad")
logger.addHandler(logging.NullHandler())  # else Python would print warnings of a program that has no log

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _JournalHandler(logging.Handler):
    """Writes records to a journal."""

    def __init__(self, journal: Journal):
        super().__init__()
        self._journal = journal
        self.setFormatter(logging.Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._journal.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._journal.flush()
        super().close()


@contextmanager
def run_log(store: Store, epoch: int) -> Iterator[None]:
    """In this block what is logged, of all libraries from WARNING on and of our own from INFO on, goes to the log.

    Python's warnings do, too; an exception that leaves the block is logged with its traceback.
    """
    handler = _JournalHandler(Journal(store, log_name(epoch), partial(log_segment, epoch)))
    root, level = logging.getLogger(), logger.level
    root.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    except BaseException as error:
        logger.error("ends with %s: %s", type(error).__name__, error, exc_info=True)
        raise
    finally:
        logging.captureWarnings(False)
        logger.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def log_event(name: str, facts: Mapping[str, Any]) -> None:
    """Tell the log of an event, in words; tracebacks and what a dead worker printed below it."""
    if name == "committed":
        failed = f", failed: {by_reason(facts['failures'])}" if facts["failures"] else ""
        logger.info("unit %s committed: %s outputs%s", facts["unit"], facts["outputs"], failed)
        return
    told = trouble(name, facts)
    others = " ".join(f"{key}={value}" for key, value in facts.items() if key != "details")
    details = textwrap.indent(facts.get("details") or "", "    | ")
    logger.log(
        logging.WARNING if told else logging.INFO,
        "%s%s", told or f"{name.replace('_', ' ')} {others}".strip(), f"\n{details}" if details else "",
    )  # fmt: skip


def find_log(store: Store) -> str | None:
    """The latest session's log, or its latest segment; None if there is none."""
    return max((entry.name for entry in store.list("logs")), default=None)
