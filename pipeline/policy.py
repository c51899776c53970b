"""What happens on an event: a pure state machine. It knows units, workers and blame; nothing of Ray, files or time.

Work is handed out as tasks: some outputs of one unit. When a worker dies, what it had in hand is suspect, or all that
it had begun where that isn't known: suspects run again with nothing beside them, in halves, until one is alone; an
output that has died alone `DEATHS_ALONE` times is quarantined. Whatever was not begun, or was lost with its node, is
requeued without blame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

DEATHS_ALONE = 2

DEATHS_NEAR = 3
"""Deaths near an output that was begun, but not in hand or acknowledged with all others of its task, until it is
suspect all the same: damage can show late."""

P = TypeVar("P")


@dataclass(frozen=True)
class Task:
    """Some outputs of a unit, to be tried once. `alone`: nothing else may be on the worker meanwhile."""

    id: int
    unit: int
    indices: tuple[int, ...]
    alone: bool = False


@dataclass(frozen=True)
class Commit(Generic[P]):
    """Every output of the unit has a row: its pieces make the part."""

    unit: int
    pieces: tuple[P, ...]


@dataclass(frozen=True)
class Quarantine:
    """An output that ends whatever process takes it up: it gets a failed row."""

    unit: int
    index: int
    cause: str


Action = Commit[P] | Quarantine


@dataclass
class _Unit(Generic[P]):
    missing: set[int]
    pieces: list[P] = field(default_factory=list)
    tries: dict[int, int] = field(default_factory=dict)
    deaths_alone: dict[int, int] = field(default_factory=dict)
    deaths_near: dict[int, int] = field(default_factory=dict)


@dataclass
class _Running:
    task: Task
    worker: str
    started: bool = False
    acked: set[int] = field(default_factory=set)


class Policy(Generic[P]):
    """Hands out tasks and turns events into actions. `depth` tasks at most are on one worker."""

    def __init__(self, depth: int):
        self._depth = depth
        self._units: dict[int, _Unit[P]] = {}
        self._fresh: deque[Task] = deque()
        self._suspect: deque[Task] = deque()
        self._running: dict[int, _Running] = {}
        self._on: dict[str, set[int]] = {}
        self._draining: str | None = None
        self._ids = count()

    # -- questions ------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Tasks that no worker has."""
        return len(self._fresh) + len(self._suspect)

    def tries(self, unit: int, index: int) -> int:
        """How often an output has been handed out."""
        return self._units[unit].tries.get(index, 0)

    # -- events ---------------------------------------------------------------------------------------------------

    def add(self, unit: int, indices: Iterable[int]) -> None:
        """A unit to be done."""
        wanted = tuple(indices)
        self._units[unit] = _Unit(set(wanted))
        self._fresh.append(self._task(unit, wanted))

    def assign(self, worker: str, at_most: int | None = None) -> Task | None:
        """The next task for a worker that lives, or None if it should get none now.

        A fresh task is cut to `at_most` outputs, and the rest stays next in turn.
        """
        running = self._on.get(worker, ())
        if len(running) >= self._depth or any(self._running[task].task.alone for task in running):
            return None
        if self._suspect and self._draining in (None, worker):
            if running:
                self._draining = worker  # it gets nothing more until it is empty, then the suspects
                return None
            self._draining = None
            return self._hand_out(self._suspect.popleft(), worker)
        return self._hand_out(self._next_fresh(at_most), worker) if self._fresh else None

    def started(self, task: int) -> None:
        """The worker has begun a task."""
        self._running[task].started = True

    def acked(self, task: int, indices: Iterable[int]) -> None:
        """Outputs that did no harm: they are no suspects if the worker dies now."""
        self._running[task].acked.update(indices)

    def finished(self, task: int, piece: P) -> list[Action[P]]:
        """A task's outputs have their rows and its shard is durable."""
        done = self._take_back(task).task
        return self._settle(done.unit, done.indices, piece)

    def quarantined(self, unit: int, index: int, piece: P) -> list[Action[P]]:
        """The failed row of a quarantined output, as a piece."""
        return self._settle(unit, (index,), piece)

    def returned(self, task: int) -> None:
        """A task came back undone through no fault of its outputs (the store failed, say)."""
        returned = self._take_back(task).task
        self._requeue(returned, returned.indices)

    def overwhelmed(self, task: int, cause: str, in_hand: Collection[tuple[int, int]]) -> list[Action[P]]:
        """A task gave in over the outputs `in_hand`, as (unit, index), without its worker dying: memory ran out."""
        return self._incriminate(self._take_back(task), cause, in_hand)

    def died(self, worker: str, cause: str, in_hand: Collection[tuple[int, int]] | None = None) -> list[Action[P]]:
        """A worker's process ended under its tasks, or hung, over the outputs `in_hand` if that is known."""
        return [action for running in self._leave(worker) for action in self._incriminate(running, cause, in_hand)]

    def lost(self, worker: str) -> None:
        """A worker went away with its node, or was let go: nobody is to blame."""
        for running in self._leave(worker):
            self._requeue(running.task, running.task.indices)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _task(self, unit: int, indices: Sequence[int], *, alone: bool = False) -> Task:
        return Task(next(self._ids), unit, tuple(indices), alone)

    def _hand_out(self, task: Task, worker: str) -> Task:
        self._running[task.id] = _Running(task, worker)
        self._on.setdefault(worker, set()).add(task.id)
        tries = self._units[task.unit].tries
        for index in task.indices:
            tries[index] = tries.get(index, 0) + 1
        return task

    def _next_fresh(self, at_most: int | None) -> Task:
        task = self._fresh.popleft()
        if at_most is None or len(task.indices) <= at_most:
            return task
        self._fresh.appendleft(self._task(task.unit, task.indices[at_most:]))
        return self._task(task.unit, task.indices[:at_most])

    def _take_back(self, task: int) -> _Running:
        running = self._running.pop(task)
        self._on[running.worker].discard(task)
        return running

    def _leave(self, worker: str) -> list[_Running]:
        if self._draining == worker:
            self._draining = None
        return [self._running.pop(task) for task in sorted(self._on.pop(worker, ()))]

    def _requeue(self, task: Task, indices: tuple[int, ...], *, cleared: bool = False) -> None:
        """Suspects stay alone until they are `cleared`."""
        alone = task.alone and not cleared
        if indices:
            (self._suspect if alone else self._fresh).appendleft(self._task(task.unit, indices, alone=alone))

    def _incriminate(
        self, running: _Running, cause: str, in_hand: Collection[tuple[int, int]] | None
    ) -> list[Action[P]]:
        task = running.task
        begun = running.started or task.alone  # news of a start can be lost; who was alone is known
        suspects = tuple(i for i in task.indices if i not in running.acked) if begun else ()
        if begun and not suspects:  # the shard was being written, or it is damage that shows late
            suspects = tuple(i for i in task.indices if self._dies_near(task.unit, i))
        elif in_hand is not None and len(suspects) > 1:
            suspects = tuple(i for i in suspects if (task.unit, i) in in_hand or self._dies_near(task.unit, i))
        self._requeue(task, tuple(i for i in task.indices if i not in suspects), cleared=True)
        return self._blame(task, suspects, cause)

    def _dies_near(self, unit: int, index: int) -> bool:
        """Count one more death with this output begun and not in hand; whether there were too many."""
        near = self._units[unit].deaths_near
        near[index] = near.get(index, 0) + 1
        return near[index] >= DEATHS_NEAR

    def _blame(self, task: Task, suspects: tuple[int, ...], cause: str) -> list[Action[P]]:
        if task.alone and len(task.indices) == 1 and suspects:
            deaths = self._units[task.unit].deaths_alone
            deaths[suspects[0]] = deaths.get(suspects[0], 0) + 1
            if deaths[suspects[0]] >= DEATHS_ALONE:
                return [Quarantine(task.unit, suspects[0], cause)]
        half = (len(suspects) + 1) // 2
        for part in (suspects[:half], suspects[half:]):
            if part:
                self._suspect.append(self._task(task.unit, part, alone=True))
        return []

    def _settle(self, unit: int, indices: Iterable[int], piece: P) -> list[Action[P]]:
        state = self._units[unit]
        state.missing -= set(indices)
        state.pieces.append(piece)
        if state.missing:
            return []
        del self._units[unit]
        return [Commit(unit, tuple(state.pieces))]
