"""A driver's memory over a long plan, in a process of its own that lists and hands out every unit."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

import pipeline.driver  # noqa: F401 - a driver has Ray and all else in memory
from benchmarks._pipeline.collections import open_table, plan_in, write_table
from benchmarks._pipeline.table import Row
from pipeline.commit import committed_units
from pipeline.plan import UnitFeed
from workers.storage import open_store

GOAL_MEMORY = 500e6
GOAL_FIRST = 10.0
SHARES = (0.1, 0.5, 1.0)
"""Of the collection, where memory is looked at."""


def listing_rows(folder: Path, images: int) -> Iterator[Row]:
    """List a table into `folder/run`, where the plan stays for others."""
    table = folder / "table.parquet"
    write_table(table, images)
    command = [sys.executable, "-P", "-m", __name__, str(table), str(folder / "run"), str(images)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    sizes = ", ".join(f"{found['memory'][str(share)] / 1e6:.0f} MB at {share * images:,.0f}" for share in SHARES)
    yield Row(f"driver's memory, {images:,} images listed", sizes)
    peak = found["peak"]
    yield Row(
        "  at its peak", f"{peak / 1e6:.0f} MB, {found['start'] / 1e6:.0f} of them before", "500 MB", peak < 500e6
    )
    first = found["first"]
    yield Row("  first unit, from the start of the listing", f"{first:.2f} s", "at once", first < 1)
    yield Row("  listed, frozen and handed out", f"{images / found['seconds']:,.0f} images/s")


def main(table: str, run: str, images: int) -> None:
    """Print what was seen as JSON; seconds, bytes."""
    process, start = psutil.Process(), psutil.Process().memory_info().rss
    store = open_store(run)
    began = time.perf_counter()
    feed = UnitFeed(plan_in(store), open_table(table), committed_units(store, 0))
    marks = {share: int(share * images) for share in SHARES}
    seen, first, memory = 0, None, {}
    while feed.listing or seen < images:
        unit = feed.next()
        if unit is None:
            time.sleep(0.001)
            continue
        first = first or time.perf_counter() - began
        seen += len(unit.outputs)
        for share in [share for share, mark in marks.items() if seen >= mark]:
            del marks[share]
            memory[share] = process.memory_info().rss
    found: dict[str, Any] = {"start": start, "first": first, "seconds": time.perf_counter() - began, "memory": memory}
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
