"""Figures in words for people, and a tally in such words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.progress.tally import Load, Tally


def duration(seconds: float) -> str:
    """Seconds for people: 48 s, 12 min, 3.4 h, 2.1 days."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (129_600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def per(rate: float) -> str:
    """A rate for people, `rate` in events a second: 12.5/s, 3.1/min, 7.0/h."""
    for limit, unit, factor in ((1, "s", 1), (1 / 60, "min", 60)):
        if rate >= limit:
            return f"{rate * factor:.1f}/{unit}"
    return f"{rate * 3600:.1f}/h"


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 worker, 2 workers."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def by_reason(failures: Mapping[str, int]) -> str:
    """Failures by code, the most frequent first."""
    return ", ".join(f"{count:,} {code}" for code, count in sorted(failures.items(), key=lambda f: (-f[1], f[0])))


def progress(tally: Tally) -> str:
    """How far it is: 12/96 outputs (12 %)."""
    share = f" ({tally.done / tally.total:.0%})" if tally.total and not tally.listing else ""
    return f"{tally.done:,}/{tally.total:,}{'+' if tally.listing else ''} outputs{share}"


def speed(tally: Tally, now: float) -> str | None:
    """How fast it goes, and each GPU or worker if there are several."""
    rate, each = tally.rate(now), tally.rate_each(now)
    if not rate:
        return None
    several = tally.workers * (tally.gpus or 1) > 1
    return per(rate) + (f" ({per(each)} a {'GPU' if tally.gpus else 'worker'})" if each and several else "")


def workers(tally: Tally) -> str:
    """How many workers there are, come and were replaced."""
    words = [plural(tally.workers, "worker")] if tally.workers else []
    if tally.starting > 0:
        words.append(f"{tally.starting} starting" if words else f"{plural(tally.starting, 'worker')} starting")
    if not words:
        words.append("no worker yet, Ray is starting" if tally.began is None else "no worker")
    if tally.restarts:
        words.append(f"{tally.restarts} replaced")
    return ", ".join(words)


def stages(tally: Tally) -> str | None:
    """How the time is shared out."""
    return ", ".join(f"{stage} {share:.0%}" for stage, share in tally.shares().items()) or None


def load(found: Load | None) -> str | None:
    """What the workers take."""
    if found is None:
        return None
    words = [f"{found.cpus:.1f} cores busy", size(found.memory)]
    if found.gpu is not None:
        words.insert(0, f"GPU {found.gpu:.0%} busy")
    if found.gpu_memory is not None:
        words.insert(1, f"{size(found.gpu_memory)} on it")
    return ", ".join(words)


def sentence(tally: Tally, now: float) -> str:
    """A tally on one line."""
    remaining = tally.remaining(now)
    parts = [
        progress(tally),
        speed(tally, now),
        f"{duration(remaining)} to go" if remaining is not None and tally.done < tally.total else None,
        workers(tally),
        stages(tally),
        load(tally.load),
        f"failed: {by_reason(tally.failures)}" if tally.failed else None,
        "stopping" if tally.stopping else None,
    ]
    return " · ".join(part for part in parts if part)


def trouble(event: str, facts: Mapping[str, Any]) -> str | None:
    """What a person should hear of an event, if anything."""
    who, error = facts.get("worker"), facts.get("error")
    match event:
        case "worker_died" | "out_of_memory":
            return f"{who} died{' for want of memory' if event == 'out_of_memory' else ''} and is replaced: {error}"
        case "worker_lost":
            return f"{who} was lost with its node; its outputs are done elsewhere"
        case "worker_hung":
            where = f" over {facts['waiting_for']}" if facts.get("waiting_for") else ""
            return f"{who} hung{where} and is replaced"
        case "worker_start_failed":
            return f"a worker failed to start: {error}"
        case "attempt_failed":
            return f"part of unit {facts['unit']} is tried again: {error}"
        case "no_room":
            return facts["sentence"]
        case "quarantined":
            return f"an output of unit {facts['unit']} is given up ({facts['cause']})"
    return None
