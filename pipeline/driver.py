"""Schedules a run on Ray: the one module of pipeline that knows it. Events go to the policy, its actions come back.

The driver holds little: the policy's open units, the streams of running attempts, a few commits under way.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, cast

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np
import ray
from numpy.typing import NDArray
from ray import exceptions as ray_errors

from pipeline.commit import commit
from pipeline.plan import Unit, UnitFeed
from pipeline.policy import Action, Commit, Policy, Task
from workers.actor import CONCURRENT_ATTEMPTS, DeviceFacts, StartError, probe_device, remote_actor
from workers.errors import PixgradError, first_line
from workers.records import Acked, Attempt, Event, Piece, Started, encode_rows, failed_row, row_identity, row_schema
from workers.setup import WorkerSetup
from workers.storage import StorageError, Store

DEATHS = (
    ray_errors.RayActorError,
    ray_errors.OutOfMemoryError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
)
START_FAILURES = 3
"""Workers in a row that may fail to start, while none lives, before the run stops."""

STORE_PATIENCE = 60.0
"""Seconds for which the store may fail before the run stops; an object store's client retries each request itself."""

DRAIN_SECONDS = 10.0
"""How long running attempts may take to finish after a signal."""


class RunStopped(PixgradError):
    """The run can't go on now; what is committed stays, and the same command goes on later."""

    def __init__(self, sentence: str, exit_code: int):
        super().__init__(sentence)
        self.exit_code = exit_code


class Listener(Protocol):
    """Told what happens, for progress and the event log."""

    def event(self, name: str, **facts: Any) -> None:
        """Something worth a line in the log."""
        ...

    def acked(self, outputs: int) -> None:
        """Outputs were processed, not yet committed."""
        ...

    def committed(self, unit: int, outputs: int, failures: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """A unit was committed."""
        ...

    def turn(self, workers: int, feed: UnitFeed) -> None:
        """The loop went round with so many workers ready."""
        ...


@dataclass(frozen=True)
class Resources:
    """What one worker takes, how many attempts are on it at a time, and how many workers there may be.

    CPUs are also its threads.
    """

    cpus: int
    gpus: float
    depth: int
    min_workers: int
    max_workers: int | None


@contextmanager
def cluster() -> Iterator[None]:
    """Ray for the block: the cluster at RAY_ADDRESS, one already joined, or an embedded one that ends with the block.

    Workers get a fresh folder as their working directory: the current one must not shadow our packages.
    """
    if ray.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="pixgrad-") as folder:
        inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        address = os.environ.get("RAY_ADDRESS", "local")
        try:
            ray.init(
                address=address,
                num_cpus=_cpus_left_to_us() if address == "local" else None,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=None if inside_job else {"working_dir": folder},
            )
        except Exception as error:  # Ray raises all kinds here, plain Exception too
            raise RunStopped(f"Can't reach or start Ray (RAY_ADDRESS={address}): {first_line(error)}", 4) from None
        try:
            yield
        finally:
            ray.shutdown()


def probe(gpus: float | None) -> tuple[DeviceFacts, float, int]:
    """The device that workers will have, the GPUs and the CPUs of one worker.

    `gpus` None: one GPU if the cluster has any. Raises RunStopped if GPUs are asked for that the cluster can't have.
    """
    total = ray.cluster_resources()
    wanted = (1.0 if total.get("GPU", 0) else 0.0) if gpus is None else gpus
    if wanted and not total.get("GPU", 0) and "RAY_ADDRESS" not in os.environ:
        raise RunStopped(f"workers.gpus asks for {wanted:g} GPUs and this machine has none; set it to 0 or auto.", 2)
    if not wanted and not total.get("CPU", 0):
        raise RunStopped("The cluster has no CPUs, and no GPUs yet: set workers.gpus to 1 and workers.max.", 2)
    remote = ray.remote(num_cpus=0, num_gpus=wanted, max_retries=2)(probe_device)
    try:
        facts = ray.get(remote.remote())
    except ray_errors.RayError as error:
        raise RunStopped(f"A worker can't look at its device: {first_line(error)}", 4) from None
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0)]
    if wanted:
        shares = [int(n["CPU"] // max(1, n["GPU"] / wanted)) for n in nodes if n.get("GPU", 0)]
        return facts, wanted, max(1, min([8, *shares]))
    return facts, 0.0, max(1, min([4, *(int(n["CPU"]) for n in nodes)]))


def check_room(resources: Resources) -> None:
    """Raise RunStopped if a worker fits no machine, and no more machines can come."""
    if "RAY_ADDRESS" in os.environ:
        return
    total = ray.cluster_resources()
    if total.get("CPU", 0) < resources.cpus or total.get("GPU", 0) < resources.gpus:
        raise RunStopped(
            f"A worker of this run takes {resources.cpus} CPUs and {resources.gpus:g} GPUs, more than there are here; "
            f"go on with the run on a machine like the one it began on, or begin another.",
            4,
        )


@dataclass
class _Worker:
    name: str
    actor: Any
    node: str | None = None


@dataclass
class _Stream:
    """A running attempt and its events."""

    task: Task
    worker: _Worker
    events: Any


@dataclass
class _Open:
    """A unit under way."""

    unit: Unit
    failures: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Driver:
    """Runs the units of a feed to their commits."""

    def __init__(
        self,
        *,
        store: Store,
        setup: WorkerSetup,
        weights: NDArray[np.uint8],
        resources: Resources,
        feed: UnitFeed,
        listener: Listener,
        round: int = 0,
    ):
        self._store = store
        self._setup = setup
        self._weights = ray.put(weights)
        self._resources = resources
        self._feed = feed
        self._listener = listener
        self._round = round
        self._policy: Policy[Piece] = Policy(min(resources.depth, CONCURRENT_ATTEMPTS))
        self._actor = remote_actor().options(num_cpus=resources.cpus, num_gpus=resources.gpus)
        self._workers: dict[str, _Worker] = {}
        self._starting: dict[Any, _Worker] = {}
        self._streams: dict[Any, _Stream] = {}
        self._open: dict[int, _Open] = {}
        self._commits: dict[Future[bool], tuple[_Open, int]] = {}
        self._pool = ThreadPoolExecutor(8, "commit")
        self._start_failures = 0
        self._workers_made = 0
        self._store_failures = 0
        self._store_failing_since: float | None = None
        self._paused_until = 0.0
        self._room = (0, 0.0)

    def run(self, stop: threading.Event, superseded: threading.Event) -> None:
        """Until everything listed is committed. Raises RunStopped, StorageError, or what ended the listing too early.

        When `stop` is set, running attempts get `DRAIN_SECONDS` to finish and RunStopped (130) is raised; when
        `superseded` is, another driver has the run and nothing more is done (5).
        """
        try:
            while not self._finished():
                if superseded.is_set():
                    raise RunStopped("Another driver took this one for dead and has taken over the run.", 5)
                if stop.is_set():
                    self._drain()
                    raise RunStopped("Interrupted.", 130)
                self._take_units()
                self._start_workers()
                self._assign()
                self._wait(timeout=0.5)
                self._listener.turn(len(self._workers), self._feed)
            if self._feed.error:
                raise self._feed.error
        finally:
            for worker in [*self._workers.values(), *self._starting.values()]:
                ray.kill(worker.actor)
            self._pool.shutdown()

    def _finished(self) -> bool:
        return not (self._feed.listing or self._open or self._commits)

    # -- units and workers ----------------------------------------------------------------------------------------

    def _take_units(self) -> None:
        wanted = 2 * self._wanted()
        while self._policy.waiting < wanted and (unit := self._feed.next()):
            self._open[unit.id] = _Open(unit)
            self._policy.add(unit.id, range(len(unit.outputs)))

    def _start_workers(self) -> None:
        alive = len(self._workers) + len(self._starting)
        target = max(self._resources.min_workers, min(self._wanted(), len(self._open)))
        for _ in range(target - alive):
            self._workers_made += 1
            worker = _Worker(f"worker-{self._workers_made}", self._actor.remote(self._setup))
            self._starting[worker.actor.start.remote(self._weights)] = worker

    def _wanted(self) -> int:
        """Workers wanted: the most allowed, so that an autoscaler sees it, or what the cluster now has room for."""
        if self._resources.max_workers is not None:
            return self._resources.max_workers
        room, asked = self._room
        if time.monotonic() - asked > 5:  # nodes come and go
            total, mine = ray.cluster_resources(), self._resources
            room = int(total.get("GPU", 0) // mine.gpus if mine.gpus else total.get("CPU", 0) // mine.cpus)
            self._room = (room, time.monotonic())
        return max(1, room)

    def _assign(self) -> None:
        if time.monotonic() < self._paused_until:
            return
        for worker in list(self._workers.values()):
            while task := self._policy.assign(worker.name):
                attempt = self._attempt(task)
                events = worker.actor.process.options(num_returns="streaming").remote(attempt)
                self._streams[events] = _Stream(task, worker, events)

    def _attempt(self, task: Task) -> Attempt:
        outputs = self._open[task.unit].unit.outputs
        return Attempt(
            id=secrets.token_hex(8),
            unit=task.unit,
            round=self._round,
            indices=task.indices,
            outputs=tuple(outputs[i] for i in task.indices),
            tries=tuple(self._policy.tries(task.unit, i) for i in task.indices),
        )

    # -- events ---------------------------------------------------------------------------------------------------

    def _wait(self, timeout: float) -> None:
        waiting = [*self._streams, *self._starting]
        if not waiting:
            time.sleep(0.05)
        else:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
            if not ready:
                ready, _ = ray.wait(waiting, timeout=timeout, fetch_local=False)
            for ref in ready:
                if ref in self._starting:
                    self._on_started_worker(ref)
                elif ref in self._streams:
                    self._on_stream(self._streams[ref])
        for future in [f for f in self._commits if f.done()]:
            self._on_commit(future)

    def _on_started_worker(self, ref: Any) -> None:
        worker = self._starting.pop(ref)
        try:
            worker.node = ray.get(ref)
        except ray_errors.RayTaskError as error:
            self._on_failed_start(
                error.cause if isinstance(error.cause, StartError) else StartError(first_line(error), str(error))
            )
        except ray_errors.RayError as error:
            self._on_failed_start(StartError(f"A worker died while starting: {first_line(error)}", str(error)))
        else:
            self._start_failures = 0
            self._workers[worker.name] = worker
            self._listener.event("worker_ready", worker=worker.name, node=worker.node)

    def _on_failed_start(self, error: StartError) -> None:
        self._start_failures += 1
        self._listener.event("worker_start_failed", error=str(error), details=error.details)
        if error.details is None:
            raise RunStopped(str(error), 2)
        if self._start_failures >= START_FAILURES and not self._workers:
            raise RunStopped(
                f"{START_FAILURES} workers in a row failed to start (see events.jsonl). The last one: {error}", 4
            )

    def _on_stream(self, stream: _Stream) -> None:
        try:
            self._on_event(stream, cast(Event, ray.get(next(stream.events))))
        except StopIteration:
            self._streams.pop(stream.events, None)
        except ray_errors.RayTaskError as error:
            self._on_failed_attempt(stream, error)
        except DEATHS as error:
            self._on_death(stream.worker, error)

    def _on_event(self, stream: _Stream, event: Event) -> None:
        task = stream.task
        match event:
            case Started():
                self._policy.started(task.id)
            case Acked(indices):
                self._policy.acked(task.id, indices)
                self._listener.acked(len(indices))
            case Piece():
                self._store_failures, self._store_failing_since = 0, None
                unit = self._open[task.unit]
                _add(unit.failures, event.failures)
                _add(unit.seconds, event.seconds)
                self._act(self._policy.finished(task.id, event))

    def _on_failed_attempt(self, stream: _Stream, error: ray_errors.RayTaskError) -> None:
        """The attempt raised: the store failed, or there is a bug. Neither is an image's fault."""
        del self._streams[stream.events]
        self._policy.returned(stream.task.id)
        self._listener.event("attempt_failed", unit=stream.task.unit, error=str(error.cause or error))
        if not isinstance(error.cause, PixgradError):
            raise RuntimeError(
                f"an attempt ended with {first_line(error.cause or error)} (see events.jsonl)"
            ) from error
        if not isinstance(error.cause, StorageError):
            raise RunStopped(str(error.cause), 4)
        now = time.monotonic()
        self._store_failures += 1
        self._store_failing_since = self._store_failing_since or now
        self._paused_until = now + min(15, 2**self._store_failures)
        if now - self._store_failing_since > STORE_PATIENCE:
            raise RunStopped(str(error.cause), 4)

    def _on_death(self, worker: _Worker, error: Exception) -> None:
        if self._workers.pop(worker.name, None) is None:
            return
        ray.kill(worker.actor)  # it may only have been out of reach
        for stream in [s for s in self._streams.values() if s.worker is worker]:
            self._read_to_the_end(stream)
            self._streams.pop(stream.events, None)
        lost = worker.node not in {n["NodeID"] for n in ray.nodes() if n["Alive"]}
        cause = "out_of_memory" if isinstance(error, ray_errors.OutOfMemoryError) else "worker_died"
        self._listener.event("worker_lost" if lost else cause, worker=worker.name, error=first_line(error))
        if lost:
            self._policy.lost(worker.name)
        else:
            self._act(self._policy.died(worker.name, cause))

    def _read_to_the_end(self, stream: _Stream) -> None:
        """What a worker said before it died counts: pieces are whole, and who was acknowledged is innocent."""
        with suppress(StopIteration, ray_errors.RayError):
            while True:
                self._on_event(stream, cast(Event, ray.get(next(stream.events))))

    # -- actions --------------------------------------------------------------------------------------------------

    def _act(self, actions: list[Action[Piece]]) -> None:
        for action in actions:
            if isinstance(action, Commit):
                unit = self._open.pop(action.unit)
                future = self._pool.submit(_commit, self._store, self._round, action.unit, action.pieces)
                self._commits[future] = (unit, action.unit)
            else:
                piece = self._quarantine_piece(action.unit, action.index, action.cause)
                _add(self._open[action.unit].failures, piece.failures)
                self._listener.event("quarantined", unit=action.unit, index=action.index, cause=action.cause)
                self._listener.acked(1)
                self._act(self._policy.quarantined(action.unit, action.index, piece))

    def _quarantine_piece(self, unit: int, index: int, cause: str) -> Piece:
        identity = row_identity(
            self._open[unit].unit.outputs[index],
            unit=unit,
            round=self._round,
            attempts=self._policy.tries(unit, index),
            run_seed=self._setup.seed,
        )
        row = failed_row(identity, cause, _QUARANTINE_SENTENCES[cause])
        schema = row_schema(self._setup.task, self._setup.source_columns)
        return Piece((index,), encode_rows([row], schema), {cause: 1}, {})

    def _on_commit(self, future: Future[bool]) -> None:
        unit, number = self._commits.pop(future)
        if future.result():
            self._listener.committed(number, len(unit.unit.outputs), unit.failures, unit.seconds)
        else:
            self._listener.event("already_committed", unit=number)
            self._listener.committed(number, len(unit.unit.outputs), {}, {})

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while (self._streams or self._commits) and time.monotonic() < deadline:
            self._wait(timeout=0.5)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal interrupts at once. To be entered after Ray has started."""
    stop = threading.Event()

    def handle(_number: int, _frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_QUARANTINE_SENTENCES = {
    "worker_died": "The worker's process ended each time this output was processed alone.",
    "out_of_memory": "The worker ran out of memory each time this output was processed alone.",
    "timeout": "The worker hung each time this output was processed alone.",
}


def _commit(store: Store, round: int, unit: int, pieces: Sequence[Piece]) -> bool:
    """Commit, with patience. Raises StorageError."""
    began = time.monotonic()
    for failures in count(1):
        try:
            return commit(store, round, unit, pieces)
        except StorageError:
            if time.monotonic() - began > STORE_PATIENCE:
                raise
            time.sleep(min(15, 2**failures))
    raise AssertionError("unreachable")


def _cpus_left_to_us() -> int | None:
    """The CPUs that this process may use where that is fewer than there are (taskset, Slurm); else Ray counts them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed if allowed != os.cpu_count() else None


def _add(total: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0) + value
