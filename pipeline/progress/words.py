"""Figures in words for people."""

from __future__ import annotations

import time

from pipeline.progress.tally import Tally


def duration(seconds: float) -> str:
    """Seconds for people: 48 s, 12 min, 3.4 h, 2.1 days."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (129_600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def sentence(tally: Tally) -> str:
    """A tally on one line."""
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
