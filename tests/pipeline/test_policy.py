"""The policy as a pure machine: scripted stories, and random interleavings under hypothesis."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.policy import Commit, Policy, Quarantine


def test_a_unit_is_committed_when_every_output_has_a_piece() -> None:
    policy: Policy[str] = Policy(depth=2)
    policy.add(7, range(3))
    task = policy.assign("w")
    assert task is not None and task.indices == (0, 1, 2) and policy.assign("w") is None
    policy.started(task.id)
    policy.acked(task.id, [0, 2])
    assert policy.finished(task.id, "piece") == [Commit(7, ("piece",))]


def test_no_more_than_depth_tasks_are_on_a_worker() -> None:
    policy: Policy[str] = Policy(depth=2)
    for unit in range(5):
        policy.add(unit, [0])
    assert [bool(policy.assign("w")) for _ in range(4)] == [True, True, False, False]
    assert policy.assign("other") is not None


def test_a_queued_task_of_a_dead_worker_is_requeued_without_blame() -> None:
    policy: Policy[str] = Policy(depth=2)
    policy.add(0, range(4))
    task = policy.assign("w")
    assert task and policy.died("w", "worker_died") == []
    again = policy.assign("v")
    assert again and again.indices == task.indices and not again.alone


def test_begun_and_unacknowledged_outputs_are_tried_in_halves_and_alone() -> None:
    policy: Policy[str] = Policy(depth=3)
    policy.add(0, range(5))
    task = policy.assign("w")
    assert task
    policy.started(task.id)
    policy.acked(task.id, [1])
    policy.died("w", "worker_died")
    first, second = policy.assign("a"), policy.assign("b")
    assert first and first.alone and second and second.alone
    assert sorted(first.indices + second.indices) == [0, 2, 3, 4]
    assert policy.assign("a") is None, "nothing runs beside a suspect"
    innocent = policy.assign("c")
    assert innocent and innocent.indices == (1,) and not innocent.alone


def test_suspects_wait_until_a_worker_is_empty() -> None:
    policy: Policy[str] = Policy(depth=2)
    policy.add(0, [0])
    policy.add(1, [0])
    busy, doomed = policy.assign("a"), policy.assign("b")
    assert busy and doomed
    policy.started(doomed.id)
    policy.died("b", "worker_died")
    assert policy.assign("a") is None
    policy.finished(busy.id, "piece")
    suspect = policy.assign("a")
    assert suspect and suspect.alone


def test_an_output_is_quarantined_after_two_deaths_alone_and_the_unit_ends() -> None:
    policy: Policy[str] = Policy(depth=1)
    policy.add(0, [0])
    actions: list[object] = []
    for worker in "abc":
        task = policy.assign(worker)
        assert task
        policy.started(task.id)
        actions += policy.died(worker, "timeout")
    assert actions == [Quarantine(0, 0, "timeout")]
    assert policy.tries(0, 0) == 3
    assert policy.quarantined(0, 0, "failed row") == [Commit(0, ("failed row",))]


def test_a_lost_node_blames_nobody() -> None:
    policy: Policy[str] = Policy(depth=1)
    policy.add(0, [0])
    for _ in range(5):
        task = policy.assign("w")
        assert task and not task.alone
        policy.started(task.id)
        policy.lost("w")


class AnyInterleaving(RuleBasedStateMachine):
    """Some outputs kill whatever process takes them up. All the rest may happen at any time."""

    WORKERS = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.policy: Policy[tuple[int, ...]] = Policy(depth=2)
        self.deadly: set[tuple[int, int]] = set()
        self.sizes: dict[int, int] = {}
        self.on: dict[str, dict[int, tuple[int, tuple[int, ...], bool]]] = {w: {} for w in self.WORKERS}
        self.rows: Counter[tuple[int, int]] = Counter()
        self.quarantined: set[tuple[int, int]] = set()
        self.committed: set[int] = set()

    @rule(size=st.integers(1, 6), deadly=st.sets(st.integers(0, 5), max_size=2))
    def add(self, size: int, deadly: set[int]) -> None:
        unit = len(self.sizes)
        self.sizes[unit] = size
        self.deadly |= {(unit, i) for i in deadly if i < size}
        self.policy.add(unit, range(size))

    @rule(worker=st.sampled_from(WORKERS), start=st.booleans())
    def assign(self, worker: str, start: bool) -> None:
        self._assign(worker, start=start)

    def _assign(self, worker: str, *, start: bool) -> bool:
        task = self.policy.assign(worker)
        if task is None:
            return False
        assert not any(alone for _, _, alone in self.on[worker].values()), "a suspect has company"
        assert not (task.alone and self.on[worker]), "a suspect has company"
        self.on[worker][task.id] = (task.unit, task.indices, task.alone)
        if start:
            self.policy.started(task.id)
        return True

    @rule(worker=st.sampled_from(WORKERS), data=st.data())
    def work(self, worker: str, data: st.DataObject) -> None:
        """The worker gets as far as it can with one of its tasks."""
        if self.on[worker]:
            self._work(worker, data.draw(st.sampled_from(sorted(self.on[worker]))))

    def _work(self, worker: str, task: int) -> None:
        unit, indices, _ = self.on[worker][task]
        self.policy.started(task)
        for index in indices:
            if (unit, index) in self.deadly:
                self._died(worker)
                return
            self.policy.acked(task, [index])
        del self.on[worker][task]
        self._act(self.policy.finished(task, indices))

    @rule(worker=st.sampled_from(WORKERS))
    def lose_node(self, worker: str) -> None:
        self.policy.lost(worker)
        self.on[worker].clear()

    def _died(self, worker: str) -> None:
        self.on[worker].clear()
        self._act(self.policy.died(worker, "worker_died"))

    def _act(self, actions: list) -> None:
        for action in actions:
            if isinstance(action, Quarantine):
                self.quarantined.add((action.unit, action.index))
                self._act(self.policy.quarantined(action.unit, action.index, (action.index,)))
            else:
                assert action.unit not in self.committed, "a unit is committed once"
                self.committed.add(action.unit)
                self.rows.update((action.unit, i) for piece in action.pieces for i in piece)

    @invariant()
    def innocents_are_never_quarantined(self) -> None:
        assert self.quarantined <= self.deadly

    @invariant()
    def committed_units_have_each_row_once(self) -> None:
        expected = {(u, i) for u in self.committed for i in range(self.sizes[u])}
        assert set(self.rows) == expected and all(n == 1 for n in self.rows.values())

    @precondition(lambda self: self.sizes)
    @rule()
    def it_ends(self) -> None:
        for _ in range(1000):
            if self.committed == set(self.sizes):
                break
            for worker in self.WORKERS:
                self._assign(worker, start=True)
                for task in list(self.on[worker]):
                    if task in self.on[worker]:
                        self._work(worker, task)
        assert self.committed == set(self.sizes)
        assert self.quarantined == self.deadly


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


@given(size=st.integers(1, 64), culprit=st.integers(0, 63))
@settings(deadline=None, max_examples=50)
def test_one_culprit_costs_a_logarithm_of_deaths(size: int, culprit: int) -> None:
    culprit %= size
    policy: Policy[str] = Policy(depth=1)
    policy.add(0, range(size))
    deaths = 0
    done = False
    while not done:
        task = policy.assign("w")
        assert task
        policy.started(task.id)
        if culprit in task.indices:
            deaths += 1
            actions = policy.died("w", "worker_died")
        else:
            actions = policy.finished(task.id, "piece")
        for action in actions:
            done = done or isinstance(action, (Quarantine, Commit))
    assert deaths <= size.bit_length() + 2
