"""Schedules a run on Ray. Events go to the policy, its actions come back.

The driver holds little: the policy's open units, the streams of running attempts, a few commits under way.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import committer
from pipeline.cluster import Resources, RunStopped, draining_nodes, look, no_room
from pipeline.committer import Committer, pause_after
from pipeline.fairness import allowed_workers
from pipeline.plan import Feed, Unit
from pipeline.policy import Action, Commit, Policy, Task
from pipeline.room import Patience
from workers.actor import CONCURRENT_ATTEMPTS, Birth, Pulse, StartError, remote_actor
from workers.errors import OutOfMemoryError, PixgradError, first_line
from workers.last_words import last_words
from workers.recorder import OutputIndex, read_recorder
from workers.records import Acked, Attempt, Event, Piece, Started, encode_rows, failed_row, row_identity, row_schema
from workers.setup import WorkerSetup
from workers.storage import StorageError, Store, is_remote, read_bytes

A = TypeVar("A")
T = TypeVar("T")

DEATHS = (
    ray_errors.RayActorError,
    ray_errors.OutOfMemoryError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
)
START_FAILURES = 3
"""Workers in a row that may raise while they start, while none lives, before the run stops."""

START_DEATHS = 10
"""As many that may die while they start: somebody may kill them, or take their nodes away."""

LOOK_SECONDS = 5.0
"""How often the driver looks at the cluster: nodes come and go, and so do other jobs."""

PULSE_SECONDS = 5.0
"""How often a worker at work is asked how far it has got."""

TASK_SECONDS = 40.0
"""What a task should take at most, so that a death costs a minute or two: three are on a worker."""

FIRST_TASK = 8
"""Outputs of a task while it isn't known how long one takes."""

DRAIN_SECONDS = 10.0
"""How long running attempts may take to finish after a signal."""


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

    def pulse(self, worker: str, pulse: Pulse) -> None:
        """A worker has given a sign of life."""
        ...

    def turn(self, workers: int, feed: Feed) -> None:
        """The loop went round with so many workers ready."""
        ...


@dataclass
class _Worker:
    """A worker: `moved` is when it last got on, `asked` when its pulse was last asked for (of a monotonic clock).

    One that is `leaving` gets no more tasks, and is let go once it has done those it has.
    """

    name: str
    actor: Any
    birth: Birth | None = None
    attempts: int = 0
    leaving: bool = False
    moved: float = 0.0
    asked: float = 0.0
    pulse: Pulse | None = None
    asking: Any = None


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
        feed: Feed,
        listener: Listener,
        round: int = 0,
        actor: Callable[[], Any] = remote_actor,
    ):
        """`actor` gives Ray's class of workers, with the methods of `WorkerActor`."""
        self._setup = setup
        self._weights = ray.put(weights)
        self._pictures = _put_pictures(setup) if "RAY_ADDRESS" in os.environ else {}
        self._resources = resources
        self._feed = feed
        self._listener = listener
        self._round = round
        self._policy: Policy[Piece] = Policy(min(resources.depth, CONCURRENT_ATTEMPTS))
        self._actor = actor().options(num_cpus=resources.cpus, num_gpus=resources.gpus)
        self._node = ray.get_runtime_context().get_node_id()
        self._workers: dict[str, _Worker] = {}
        self._starting: dict[Any, _Worker] = {}
        self._streams: dict[Any, _Stream] = {}
        self._open: dict[int, _Open] = {}
        self._committing: dict[int, _Open] = {}
        self._committer = Committer(store, round)
        self._start_failures = 0
        self._workers_made = 0
        self._store_failures = 0
        self._store_failing_since: float | None = None
        self._paused_until = 0.0
        self._outlook = look(resources.cpus, resources.gpus)
        self._looked = time.monotonic()
        self._patience = Patience(resources.wait)
        self._seconds_each: float | None = None

    def run(self, stop: threading.Event, superseded: threading.Event | None = None) -> None:
        """Until everything listed is committed. Raises RunStopped, StorageError, or what ended the listing too early.

        When `stop` is set, running attempts get `DRAIN_SECONDS` to finish and RunStopped (130) is raised; when
        `superseded` is, another driver has the run and nothing more is done (5).
        """
        try:
            while not self._finished():
                if superseded and superseded.is_set():
                    raise RunStopped("Another driver took this one for dead and has taken over the run.", 5)
                if stop.is_set():
                    self._drain()
                    raise RunStopped("Interrupted.", 130)
                self._look_around()
                self._take_units()
                self._adjust_workers()
                self._assign()
                self._wait(timeout=0.5)
                self._feel_pulses()
                self._listener.turn(len(self._workers), self._feed)
            if self._feed.error:
                raise self._feed.error
        finally:
            for worker in [*self._workers.values(), *self._starting.values()]:
                ray.kill(worker.actor)
                self._forget(worker)
            self._committer.close()

    def _finished(self) -> bool:
        return not (self._feed.listing or self._open or self._committing)

    # -- units and workers ----------------------------------------------------------------------------------------

    def _take_units(self) -> None:
        wanted = 2 * self._wanted()
        while self._policy.waiting < wanted and (unit := self._feed.next()):
            self._open[unit.id] = _Open(unit)
            self._policy.add(unit.id, unit.indices)

    def _look_around(self) -> None:
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._outlook = look(self._resources.cpus, self._resources.gpus)
        lacking = not self._workers and bool(self._starting) and self._outlook.lacks_room
        if self._patience.is_over(lacking, now):
            raise RunStopped(no_room(self._resources.cpus, self._resources.gpus), 4)
        if self._patience.is_time_to_say(now):
            self._listener.event("no_room", sentence=no_room(self._resources.cpus, self._resources.gpus))

    def _adjust_workers(self) -> None:
        """Start workers that are wanted; let those go that are not, or whose nodes go away, once they are done."""
        draining = self._outlook.draining
        staying = [w for w in self._workers.values() if w.birth and w.birth.node not in draining]
        staying.sort(key=lambda w: (w.leaving, -w.attempts))  # who is leaving already, or idle, goes first
        target = self._target(sum(w.attempts > 0 for w in staying))
        kept = {w.name for w in staying[:target]}
        for worker in self._workers.values():
            worker.leaving = worker.name not in kept
        for _ in range(target - len(kept) - len(self._starting)):
            self._start_worker()
        for ref, worker in list(self._starting.items())[max(0, target - len(kept)) :]:
            del self._starting[ref]
            ray.kill(worker.actor)
        for worker in [w for w in self._workers.values() if w.leaving and not w.attempts]:
            self._let_go(worker)

    def _target(self, busy: int) -> int:
        """How many workers there should be, of whom so many are at work."""
        useful = busy + self._policy.waiting
        if self._feed.listing:  # a listing that pauses is no reason to let anybody go
            useful = max(useful, len(self._workers) + len(self._starting))
        return max(self._resources.min_workers, min(self._wanted(), useful))

    def _start_worker(self) -> None:
        self._workers_made += 1
        worker = _Worker(f"worker-{self._workers_made}", self._actor.remote(self._setup, self._pictures))
        self._starting[worker.actor.start.remote(self._weights)] = worker
        self._listener.event("worker_starting", worker=worker.name)

    def _let_go(self, worker: _Worker) -> None:
        assert worker.birth is not None
        del self._workers[worker.name]
        ray.kill(worker.actor)
        self._policy.lost(worker.name)
        self._forget(worker)
        self._listener.event("worker_let_go", worker=worker.name, draining=worker.birth.node in self._outlook.draining)

    def _wanted(self) -> int:
        """Workers wanted: the most allowed, so that an autoscaler sees it, or what the cluster now has room for."""
        outlook = self._outlook
        return allowed_workers(self._resources.max_workers, outlook.room, outlook.job, outlook.others)

    def _assign(self) -> None:
        if time.monotonic() < self._paused_until:
            return
        for worker in list(self._workers.values()):
            while not worker.leaving and (task := self._policy.assign(worker.name, self._task_size())):
                if not worker.attempts:
                    worker.moved = time.monotonic()
                worker.attempts += 1
                events = worker.actor.process.options(num_returns="streaming").remote(self._attempt(task))
                self._streams[events] = _Stream(task, worker, events)

    def _task_size(self) -> int:
        """Outputs of a task: as many as take `TASK_SECONDS`, and no fewer than a batch."""
        batch = self._setup.batch.images or self._setup.batch.most
        if self._seconds_each is None:
            return max(batch, FIRST_TASK)
        return max(batch, math.ceil(TASK_SECONDS / max(self._seconds_each, 1e-6)))

    def _attempt(self, task: Task) -> Attempt:
        unit = self._open[task.unit].unit
        return Attempt(
            id=secrets.token_hex(8),
            unit=task.unit,
            round=self._round,
            indices=task.indices,
            outputs=tuple(unit.output(i) for i in task.indices),
            tries=tuple(self._policy.tries(task.unit, i) for i in task.indices),
        )

    # -- events ---------------------------------------------------------------------------------------------------

    def _wait(self, timeout: float) -> None:
        asking = {worker.asking: worker for worker in self._workers.values() if worker.asking is not None}
        waiting = [*self._streams, *self._starting, *asking]
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
                elif ref in asking:
                    self._on_pulse(asking[ref])
        for unit, ours in self._committer.done():
            self._on_commit(unit, ours)

    def _on_started_worker(self, ref: Any) -> None:
        worker = self._starting.pop(ref)
        try:
            worker.birth = cast(Birth, ray.get(ref))
        except ray_errors.RayTaskError as error:
            ray.kill(worker.actor)
            cause = error.cause
            known = isinstance(cause, StartError)
            self._on_failed_start(cause if known else StartError(first_line(error), str(error)), START_FAILURES)
        except ray_errors.RayError as error:
            ray.kill(worker.actor)
            sentence = f"A worker's process ended while it started: {first_line(error)}"
            self._on_failed_start(StartError(sentence, str(error)), START_DEATHS)
        else:
            self._start_failures = 0
            self._workers[worker.name] = worker
            self._listener.event("worker_ready", worker=worker.name, node=worker.birth.node)

    def _on_failed_start(self, error: StartError, at_most: int) -> None:
        self._start_failures += 1
        self._listener.event("worker_start_failed", error=str(error), details=error.details)
        if error.details is None:
            raise RunStopped(str(error), 2)
        if self._start_failures >= at_most and not self._workers:
            raise RunStopped(
                f"{self._start_failures} workers in a row failed to start (see the run's log). The last one: {error}", 4
            )

    def _on_stream(self, stream: _Stream) -> None:
        try:
            self._on_event(stream, cast(Event, ray.get(next(stream.events))))
        except StopIteration:
            self._end(stream)
        except ray_errors.RayTaskError as error:
            self._end(stream)
            self._on_failed_attempt(stream.task, error)
        except DEATHS as error:
            self._on_death(stream.worker, error)

    def _end(self, stream: _Stream) -> None:
        if self._streams.pop(stream.events, None):
            stream.worker.attempts -= 1

    def _on_event(self, stream: _Stream, event: Event) -> None:
        task = stream.task
        stream.worker.moved = time.monotonic()
        match event:
            case Started():
                self._policy.started(task.id)
            case Acked(indices):
                self._policy.acked(task.id, indices)
                self._listener.acked(len(indices))
            case Piece():
                self._end(stream)  # nothing follows it
                self._on_piece(task, event)

    def _on_piece(self, task: Task, piece: Piece) -> None:
        self._store_failures, self._store_failing_since = 0, None
        unit = self._open[task.unit]
        _add(unit.failures, piece.failures)
        _add(unit.seconds, piece.seconds)
        made = len(piece.indices) - sum(piece.failures.values())
        if made:
            each = piece.seconds.get("compute", 0.0) / made
            self._seconds_each = each if self._seconds_each is None else (self._seconds_each + each) / 2
        self._act(self._policy.finished(task.id, piece))

    def _on_failed_attempt(self, task: Task, error: ray_errors.RayTaskError) -> None:
        """The attempt raised: memory ran out, the store failed, or there is a bug."""
        cause = error.cause
        details = None if isinstance(cause, PixgradError) else str(error)
        self._listener.event("attempt_failed", unit=task.unit, error=first_line(cause or error), details=details)
        if isinstance(cause, OutOfMemoryError):
            in_hand = {(task.unit, index) for index in cause.indices}
            self._act(self._policy.overwhelmed(task.id, "out_of_memory", in_hand))
            return
        self._policy.returned(task.id)
        if isinstance(cause, StorageError):
            self._on_failing_store(str(cause))
        elif isinstance(cause, PixgradError):
            raise RunStopped(str(cause), 4)
        else:
            raise RuntimeError(f"an attempt ended with {first_line(cause or error)} (see the run's log)") from error

    def _on_failing_store(self, sentence: str) -> None:
        now = time.monotonic()
        self._store_failures += 1
        self._store_failing_since = self._store_failing_since or now
        self._paused_until = now + pause_after(self._store_failures)
        if now - self._store_failing_since > committer.STORE_PATIENCE:
            raise RunStopped(sentence, 4)

    def _on_death(self, worker: _Worker, error: Exception) -> None:
        if self._workers.pop(worker.name, None) is None:
            return
        ray.kill(worker.actor)  # it may only have been out of reach
        self._read_to_the_end(worker)
        lost = worker.birth is None or _went_away(worker.birth.node, error)
        cause = "out_of_memory" if isinstance(error, ray_errors.OutOfMemoryError) else "worker_died"
        if lost:
            self._listener.event("worker_lost", worker=worker.name, error=first_line(error), details=str(error))
            self._policy.lost(worker.name)
        else:
            details = f"{error}\n{self._last_words(worker) or ''}".strip()
            self._listener.event(cause, worker=worker.name, error=first_line(error), details=details)
            self._act(self._policy.died(worker.name, cause, self._in_hand(worker)))
        self._forget(worker)

    def _read_to_the_end(self, worker: _Worker) -> None:
        """What a worker said before it died counts: pieces are whole, and who was acknowledged is innocent."""
        for stream in [s for s in self._streams.values() if s.worker is worker]:
            with suppress(StopIteration, ray_errors.RayError):
                while True:
                    self._on_event(stream, cast(Event, ray.get(next(stream.events))))
            self._end(stream)

    # -- pulses ---------------------------------------------------------------------------------------------------

    def _feel_pulses(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers.values()):
            if worker.attempts and now - worker.moved > self._resources.timeout:
                self._on_hang(worker)
            elif worker.attempts and worker.asking is None and now - worker.asked > self._pulse_seconds():
                worker.asked = now
                worker.asking = worker.actor.pulse.remote()

    def _pulse_seconds(self) -> float:
        return min(PULSE_SECONDS, self._resources.timeout / 4)

    def _on_pulse(self, worker: _Worker) -> None:
        asked, worker.asking = worker.asking, None
        try:
            pulse = cast(Pulse, ray.get(asked))
        except ray_errors.RayError as error:
            self._on_death(worker, error)
            return
        if worker.pulse is None or pulse.ticks > worker.pulse.ticks:
            worker.moved = time.monotonic()
        worker.pulse = pulse
        self._listener.pulse(worker.name, pulse)

    def _on_hang(self, worker: _Worker) -> None:
        """Nothing moved for too long: the worker is replaced. If it waits for the store, no image is to blame."""
        del self._workers[worker.name]
        answers = worker.asking is None or time.monotonic() - worker.asked < self._pulse_seconds()
        store = worker.pulse.store if worker.pulse and answers else None
        ray.kill(worker.actor)
        self._listener.event("worker_hung", worker=worker.name, waiting_for=store, details=self._last_words(worker))
        self._read_to_the_end(worker)
        if store:
            self._policy.lost(worker.name)
            self._on_failing_store(f"The store has not answered for {self._resources.timeout:g} s, over {store}.")
        else:
            self._act(self._policy.died(worker.name, "timeout", self._in_hand(worker)))
        self._forget(worker)

    def _in_hand(self, worker: _Worker) -> frozenset[OutputIndex] | None:
        """What a worker's flight recorder says; None if it can't be read."""
        assert worker.birth is not None
        return self._on_its_node(worker.birth, read_recorder, worker.birth.recorder)

    def _last_words(self, worker: _Worker) -> str | None:
        """The end of what a worker printed; None if it can't be read."""
        assert worker.birth is not None
        return self._on_its_node(worker.birth, last_words, worker.birth.output)

    def _on_its_node(self, birth: Birth, read: Callable[[A], T], argument: A) -> T | None:
        """Read a file where a worker lived; None if its node doesn't answer."""
        if birth.node == self._node:
            return read(argument)
        where = NodeAffinitySchedulingStrategy(birth.node, soft=False)
        reader = ray.remote(num_cpus=0)(read).options(scheduling_strategy=where)
        try:
            return ray.get(reader.remote(argument), timeout=PULSE_SECONDS)
        except (ray_errors.RayError, TimeoutError):
            return None

    def _forget(self, worker: _Worker) -> None:
        """Remove a dead worker's flight recorder; on other nodes the next worker there does so."""
        if worker.birth and worker.birth.node == self._node:
            shutil.rmtree(worker.birth.recorder, ignore_errors=True)

    # -- actions --------------------------------------------------------------------------------------------------

    def _act(self, actions: list[Action[Piece]]) -> None:
        for action in actions:
            if isinstance(action, Commit):
                self._committing[action.unit] = self._open.pop(action.unit)
                self._committer.submit(action.unit, action.pieces)
            else:
                piece = self._quarantine_piece(action.unit, action.index, action.cause)
                _add(self._open[action.unit].failures, piece.failures)
                self._listener.event("quarantined", unit=action.unit, index=action.index, cause=action.cause)
                self._listener.acked(1)
                self._act(self._policy.quarantined(action.unit, action.index, piece))

    def _quarantine_piece(self, unit: int, index: int, cause: str) -> Piece:
        identity = row_identity(
            self._open[unit].unit.output(index),
            unit=unit,
            round=self._round,
            attempts=self._policy.tries(unit, index),
            run_seed=self._setup.seed,
        )
        row = failed_row(identity, cause, _QUARANTINE_SENTENCES[cause])
        schema = row_schema(self._setup.task, self._setup.source_columns)
        return Piece((index,), encode_rows([row], schema), {cause: 1}, {})

    def _on_commit(self, number: int, ours: bool) -> None:
        unit = self._committing.pop(number)
        if ours:
            self._listener.committed(number, len(unit.unit.outputs), unit.failures, unit.seconds)
        else:
            self._listener.event("already_committed", unit=number)
            self._listener.committed(number, len(unit.unit.outputs), {}, {})

    def _drain(self) -> None:
        self._listener.event("stopping", seconds=DRAIN_SECONDS)
        deadline = time.monotonic() + DRAIN_SECONDS
        while (self._streams or self._committing) and time.monotonic() < deadline:
            self._wait(timeout=0.5)


_QUARANTINE_SENTENCES = {
    "worker_died": "The worker's process ended each time this output was processed alone.",
    "out_of_memory": "The worker ran out of memory each time this output was processed alone; set a lower short_side, "
    "or retry on a larger machine.",
    "timeout": "The worker hung each time this output was processed alone.",
}


def _put_pictures(setup: WorkerSetup) -> dict[str, Any]:
    """The job's local images in Ray's object store, for nodes that share no disk with the driver."""
    named = chain(setup.styles, setup.guides.values(), *setup.baselines)
    uris = {picture.uri for picture in named if not is_remote(picture.uri)}
    return {uri: ray.put(read_bytes(uri)) for uri in sorted(uris)}


def _went_away(node: str, error: Exception) -> bool:
    """Whether a worker died with its node, or on one that was to go away: its outputs have nothing to do with it."""
    if getattr(error, "preempted", False) or node in draining_nodes():
        return True
    return node not in {each["NodeID"] for each in ray.nodes() if each["Alive"]}


def _add(total: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0) + value
