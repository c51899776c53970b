"""How long a job will take and what it will cost, measured: sampled images through the real engine, on one worker."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from pipeline.cluster import cluster, look
from pipeline.forecast import Forecast
from pipeline.plan import Unit
from pipeline.prepare import PreparedJob
from pipeline.progress.display import Display, display
from pipeline.progress.event_log import EventLog
from pipeline.progress.monitor import Monitor
from pipeline.progress.style import Style
from pipeline.progress.words import by_reason, duration, per, plural, size
from pipeline.run import Fixed, drive_elsewhere, fix, worker_resources
from pipeline.seal import read_sealed
from workers.assembly import Pulse
from workers.errors import PixgradError
from workers.layout import part_name
from workers.records import ImageRef, Output
from workers.storage import LocalStore, Store, open_store
from workers.usage import Usage

WARM_UP = 2
"""Outputs made before the clock starts: kernels are chosen and memory is taken with the first ones."""


class MeasureError(PixgradError):
    """Nothing could be measured."""


@dataclass(frozen=True)
class Measurement:
    """What `outputs` sampled outputs took on one worker, `seconds` without its start and the first ones.

    `batches`: the shapes that were computed, as the rows have them; `memory` and `gpu_memory`: the most that the worker
    took, and whoever is on its GPU, in bytes, None where nobody told. `left` outputs are to be made on `workers`
    workers; `bytes`: written for an output. `price`: of a worker's hour, in whatever currency, None if it isn't known.
    `partial`: batches were too large to be filled by so few images.
    """

    outputs: int
    failures: dict[str, int]
    seconds: float
    shares: dict[str, float]
    start_seconds: float
    bytes: float
    device: str
    precision: str
    partial: bool
    batches: list[str]
    memory: int | None
    gpu_memory: int | None
    workers: int
    left: int
    price: float | None

    @property
    def rate(self) -> float:
        """Outputs a second of one worker."""
        return self.outputs / self.seconds

    @property
    def total_seconds(self) -> float:
        """For what is left, on all workers."""
        return self.start_seconds + self.left / (self.rate * self.workers)

    @property
    def cost(self) -> float | None:
        """Of that, in the price's currency."""
        return None if self.price is None or not self.left else self.total_seconds / 3600 * self.workers * self.price

    def rows(self) -> Iterator[tuple[str, str]]:
        """Names and values to show."""
        made = f"{plural(self.outputs, 'output')} in {self.seconds:.1f} s"
        failed = f", failed: {by_reason(self.failures)}" if self.failures else ""
        stages = ", ".join(f"{stage} {share:.0%}" for stage, share in self.shares.items())
        yield "measured", f"{made} on {self.device}, {self.precision}{failed}"
        yield "speed", f"{per(self.rate)} a worker, which starts in {duration(self.start_seconds)}"
        yield "stages", stages
        yield "batches", ", ".join(self.batches)
        if self.memory:
            on_gpu = f", {size(self.gpu_memory)} of the GPU" if self.gpu_memory else ""
            yield "memory", f"up to {size(self.memory)} a worker{on_gpu}"
        if self.partial:
            yield "", "slower than a long run: so few images fill no batch; measure more of them"
        if not self.left:
            yield "time", "none: nothing is left to do"
            return
        crew = plural(self.workers, "worker")
        yield "disk", f"{size(self.bytes)} an output, {size(self.bytes * self.left)} for what is left"
        yield "time", f"about {duration(self.total_seconds)} for {plural(self.left, 'output')} on {crew}"
        if self.cost is not None:
            yield "cost", f"about {self.cost:.2f}, at {self.price:g} for a worker's hour"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "outputs": self.outputs,
            "failures": self.failures,
            "seconds": round(self.seconds, 3),
            "outputs_per_second_per_worker": self.rate,
            "shares": self.shares,
            "worker_start_seconds": round(self.start_seconds, 3),
            "bytes_per_output": round(self.bytes),
            "device": self.device,
            "precision": self.precision,
            "partial_batches": self.partial,
            "batches": self.batches,
            "memory_bytes": self.memory,
            "gpu_memory_bytes": self.gpu_memory,
            "workers": self.workers,
            "outputs_left": self.left,
            "total_seconds": round(self.total_seconds, 1),
            "price_per_worker_hour": self.price,
            "cost": self.cost,
        }


def measure(
    found: Forecast, count: int, *, price: float | None, scratch: str | None, console: Console, style: Style
) -> Measurement:
    """Make `count` sampled outputs on one worker, no more than are left, and say what all of them will take.

    They are written to `scratch`, which a worker must reach (None: a temporary folder of this machine), and not to the
    run. Raises MeasureError if none could be made, else as `pipeline.run.run` does.
    """
    job, count = found.job, min(count, found.outputs_left or found.outputs)
    if scratch is None and "RAY_ADDRESS" in os.environ and not isinstance(job.store, LocalStore):
        raise MeasureError("On a cluster, say with --scratch where to write: a place that all nodes reach.")
    place = tempfile.TemporaryDirectory(prefix="pixgrad-measure-") if scratch is None else nullcontext(scratch)
    with place as folder, display(console, f"{job.title}, measured", style) as shown, cluster():
        before = job.own_run()
        fixed = Fixed.from_dict(before["fixed"]) if before else fix(job)
        store = open_store(folder)
        feed = _TimedFeed(_outputs(job, found.refs, count))
        monitor = _Stopwatch(EventLog(store, 0), shown, fixed.gpus, feed)
        resources = worker_resources(job.config, fixed)
        alone = replace(resources, min_workers=1, max_workers=1)
        drive_elsewhere(job, fixed, store, feed, monitor, alone)
        seconds = feed.seconds
        made = feed.outputs - WARM_UP - monitor.tally.failed
        if seconds is None or made <= 0:
            raise MeasureError(f"No output of the sample could be made: {by_reason(monitor.tally.failures)}.")
        return Measurement(
            outputs=feed.outputs - WARM_UP,
            failures=dict(monitor.tally.failures),
            seconds=seconds,
            shares={stage: round(share, 4) for stage, share in monitor.tally.shares().items()},
            start_seconds=monitor.start_seconds,
            bytes=_written(store) / (made + WARM_UP),
            device=f"one worker ({fixed.device.name}{'' if fixed.gpus else f', {fixed.cpus} CPUs'})",
            precision=fixed.precision,
            partial=job.config.task != "attribution"
            and count < min(fixed.batch.images or fixed.batch.most, found.outputs_left),
            batches=_batches(store),
            memory=max((usage.memory for usage in monitor.usages), default=None),
            gpu_memory=max((usage.gpu_memory or 0 for usage in monitor.usages), default=0) or None,
            workers=resources.max_workers or max(1, look(resources.cpus, resources.gpus).room),
            left=found.outputs_left,
            price=price,
        )


def _outputs(job: PreparedJob, refs: Sequence[ImageRef], count: int) -> list[Output]:
    """As many outputs, of images spread over the listing, with the variants in turn."""
    spread = [refs[i * len(refs) // count % len(refs)] for i in range(count)]
    variants = [job.variants.of(image, number) for number, image in enumerate(spread)]
    return [Output(image, v[i % len(v)]) for i, (image, v) in enumerate(zip(spread, variants, strict=True))]


class _TimedFeed:
    """A unit to warm up, then the unit that is timed: from the first one's commit to its own."""

    def __init__(self, outputs: Sequence[Output]):
        first = outputs[:WARM_UP]
        self._units = iter([_unit(0, (*first, *first)[:WARM_UP]), _unit(1, outputs)])
        self._ready = True
        self._began: float | None = None
        self.seconds: float | None = None
        self.outputs = WARM_UP + len(outputs)
        self.committed_outputs = 0
        self.listed = True
        self.listing = True
        self.error: BaseException | None = None

    def next(self) -> Unit | None:
        """See `Feed`."""
        if not self._ready:
            return None
        self._ready = False
        unit = next(self._units)
        self.listing = unit.id == 0
        return unit

    def committed(self, unit: int) -> None:
        """A unit was committed."""
        now = time.monotonic()
        if unit == 0:
            self._began, self._ready = now, True
        elif self._began is not None:
            self.seconds = now - self._began

    def close(self) -> None:
        """Nothing to stop."""


def _unit(number: int, outputs: Sequence[Output]) -> Unit:
    return Unit(number, tuple(outputs), tuple(range(len(outputs))))


class _Stopwatch(Monitor):
    """Tells the feed of commits, sees how long a worker takes to start and what it takes then.

    What warms up is in no figure of time.
    """

    def __init__(self, log: EventLog, shown: Display, gpus: float, feed: _TimedFeed):
        super().__init__(log, shown, gpus)
        self._feed = feed
        self._began = 0.0
        self.start_seconds = 0.0
        self.usages: list[Usage] = []

    def pulse(self, worker: str, pulse: Pulse) -> None:
        """See `Listener`."""
        super().pulse(worker, pulse)
        if pulse.usage:
            self.usages.append(pulse.usage)

    def event(self, name: str, **facts: Any) -> None:
        """See `Listener`."""
        super().event(name, **facts)
        if name == "worker_starting":
            self._began = time.monotonic()
        elif name == "worker_ready":
            self.start_seconds = time.monotonic() - self._began
        elif name == "committed":
            self._feed.committed(facts["unit"])
            if facts["unit"] == 0:
                self.tally.failures.clear()
                self.tally.seconds.clear()


def _batches(store: Store) -> list[str]:
    """The shapes of the batches of the unit that was timed."""
    shapes = read_sealed(store, part_name(0, 1), ["batch_shape"])["batch_shape"].to_pylist()
    return sorted({shape for shape in shapes if shape})


def _written(store: Store) -> int:
    return sum(entry.size for folder in ("shards", "manifest") for entry in store.list(folder))
