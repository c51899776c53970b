"""Going on with a run that has very many committed units, in a process of its own; and what sums such a run up."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

import pipeline.driver  # noqa: F401 - a driver has Ray and all else in memory
from benchmarks._pipeline.collections import UNIT, open_table, plan_in
from benchmarks._pipeline.fake_actors import rows_of
from benchmarks._pipeline.table import Row
from pipeline.commit import committed_units, write_manifest
from pipeline.plan import UnitFeed, planned_units, read_chunks
from pipeline.provenance import write_run
from pipeline.seal import seal
from pipeline.status import read_status
from workers.layout import part_name
from workers.records import Attempt, encode_rows, row_schema
from workers.storage import LocalStore

GOAL = 10.0
_NAMES_A_FILE = 1000
"""Parts that are one file under many names: a disk limits them, and nothing tells them from others."""


def resume_rows(folder: Path, units: int) -> Iterator[Row]:
    """Go on in `folder`, where `listing_rows` left a plan, behind so many committed units."""
    store = LocalStore(folder / "run")
    _commit_first(store, units)
    command = [sys.executable, "-P", "-m", __name__, str(folder)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    first, status, manifest = found["first"], found["status"], found["manifest"]
    planned = planned_units(read_chunks(store))
    what = f"resume, {units:,} of {planned:,} units committed"
    yield Row(what, f"first unit {first:.1f} s after the process began", f"{GOAL:.0f} s", first < GOAL)
    yield Row("  pixgrad status", f"{status:.0f} s, {1000 * status / units:.2f} ms a part")
    memory = f"{found['peak'] / 1e6:.0f} MB at its peak"
    yield Row("  manifest.parquet", f"{manifest:.0f} s, {1000 * manifest / units:.2f} ms a part, {memory}")


def _commit_first(store: LocalStore, units: int) -> None:
    """Parts of the first units: real ones of the first unit's rows, which resuming doesn't look into."""
    plan = plan_in(store)
    unit = next(plan.units(plan.chunks()[0]))
    attempt = Attempt("0" * 16, unit.id, 0, unit.indices, unit.outputs, (1,) * len(unit.outputs))
    part = seal(encode_rows(rows_of(attempt, run_seed=0), row_schema("deepdream")))
    paths = [store.path(part_name(0, number)) for number in range(units)]
    paths[0].parent.mkdir(parents=True)
    for first in range(0, units, _NAMES_A_FILE):
        paths[first].write_bytes(part)
        for path in paths[first + 1 : first + _NAMES_A_FILE]:
            path.hardlink_to(paths[first])
    write_run(store, {"name": "resumed", "task": "deepdream", "state": "unfinished"})


def main(folder: str) -> None:
    """Print what was seen as JSON; seconds, bytes. As `pipeline.run.run`, look twice at what is committed."""
    store = LocalStore(Path(folder) / "run")
    assert len(committed_units(store, 0)) < planned_units(read_chunks(store))
    feed = UnitFeed(plan_in(store), open_table(f"{folder}/table.parquet"), committed_units(store, 0))
    while feed.next() is None:
        time.sleep(0.001)
    found = {"first": time.time() - psutil.Process().create_time()}
    feed.close()
    began = time.perf_counter()
    status = read_status(store)
    assert status.outputs == status.committed * UNIT
    found["status"] = time.perf_counter() - began
    began = time.perf_counter()
    write_manifest(store)
    found["manifest"] = time.perf_counter() - began
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
