"""What a unit costs the driver: the real one, with workers that compute nothing."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks._pipeline.collections import UNIT, open_table, plan_in, write_table
from benchmarks._pipeline.fake_actors import fake_actor, worker_setup
from benchmarks._pipeline.table import Row
from pipeline.cluster import Resources, cluster
from pipeline.driver import Driver
from pipeline.plan import UnitFeed
from pipeline.progress.display import Lines
from pipeline.progress.event_log import EventLog
from pipeline.progress.monitor import Monitor
from workers.actor import CONCURRENT_ATTEMPTS
from workers.storage import Store, open_store

ACTORS = (1, 8, 64)
GOAL = 500


def driver_rows(folder: Path, units: int) -> Iterator[Row]:
    """Units a second and the driver's own CPU time a unit, its threads together, at each number of actors."""
    for actors in ACTORS:
        clock = _drive(folder / f"actors-{actors}", actors, units)
        wall, cpu = clock.seconds_a_unit()
        what = f"driver, {actors} fake actor{'s' * (actors > 1)}, units of {UNIT} outputs"
        yield Row(what, f"{1 / wall:.0f} units/s of wall time", f"{GOAL} units/s", 1 / wall >= GOAL)
        yield Row("  its own CPU time", f"{1000 * cpu:.2f} ms a unit, {1 / cpu:.0f} units/s of one core")


class _Clock(Monitor):
    """The listener of a real run, which looks at the clocks at each commit."""

    def __init__(self, store: Store):
        super().__init__(EventLog(store, 0), Lines(Console(file=io.StringIO())))
        self._commits: list[tuple[float, float]] = []

    def committed(self, unit: int, outputs: int, failures: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """See `Listener`."""
        super().committed(unit, outputs, failures, seconds)
        self._commits.append((time.perf_counter(), time.process_time()))

    def seconds_a_unit(self) -> tuple[float, float]:
        """Wall and CPU time, without the first quarter, in which actors still start."""
        steady = self._commits[len(self._commits) // 4 :]
        (began, cpu_began), (ended, cpu_ended) = steady[0], steady[-1]
        return (ended - began) / (len(steady) - 1), (cpu_ended - cpu_began) / (len(steady) - 1)


def _drive(folder: Path, actors: int, units: int) -> _Clock:
    """Run a listed collection to its end; all actors start before the first of them gets work."""
    folder.mkdir()
    write_table(folder / "table.parquet", units * UNIT)
    source, store = open_table(folder / "table.parquet"), open_store(str(folder / "run"))
    plan = plan_in(store)
    list(plan.extend(source))
    clock = _Clock(store)
    with cluster():
        driver = Driver(
            store=store,
            setup=worker_setup(store.url),
            weights=np.zeros(1, np.uint8),
            resources=Resources(0, 0, CONCURRENT_ATTEMPTS, actors, actors, timeout=300),
            feed=UnitFeed(plan, source, set()),
            listener=clock,
            actor=fake_actor,
        )
        driver.run(threading.Event())
    return clock
