"""Outputs of a run drawn at random."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.commit import latest_rows
from pipeline.plan import Plan
from pipeline.rounds import RetryFeed, Round
from workers.records import Output
from workers.storage import Store

Row = dict[str, Any]


def draw(store: Store, count: int, pick: random.Random, columns: Sequence[str]) -> list[Row]:
    """`count` ok rows with some columns, each with the same chance, in one pass (Vitter 1985, algorithm R)."""
    drawn: list[Row] = []
    seen = 0
    for table in latest_rows(store, [*columns, "status"]):
        for row in table.to_pylist():
            if row["status"] != "ok":
                continue
            seen += 1
            place = len(drawn) if len(drawn) < count else pick.randrange(seen)
            drawn[place : place + 1] = [row] if place < count else drawn[place : place + 1]
    return drawn


def feed_of(plan: Plan, rows: Iterable[Row]) -> RetryFeed:
    """The units of these rows (with `key` and `unit`), with their outputs only."""
    wanted: dict[int, set[str]] = {}
    for row in rows:
        wanted.setdefault(row["unit"], set()).add(row["key"])
    return RetryFeed(plan, Round(0, wanted))


def outputs_of(plan: Plan, rows: Iterable[Row]) -> list[Output]:
    """The outputs of these rows (with `key` and `unit`), in the order of the plan."""
    feed, found = feed_of(plan, rows), []
    while unit := feed.next():
        found += unit.outputs
    return found
