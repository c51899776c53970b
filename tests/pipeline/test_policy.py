"""The policy as a pure machine: scripted stories, and random interleavings under hypothesis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.policy import DEATHS_NEAR, Action, Commit, Policy, Quarantine, Task

OutputIndex = tuple[int, int]


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


def test_a_worker_that_dies_while_it_is_emptied_leaves_the_suspects_to_others() -> None:
    policy: Policy[str] = Policy(depth=2)
    policy.add(0, [0])
    policy.add(1, [0])
    assert policy.assign("busy")
    doomed = policy.assign("doomed")
    assert doomed
    policy.started(doomed.id)
    policy.died("doomed", "worker_died")
    assert policy.assign("busy") is None, "it is emptied for the suspect"
    policy.lost("busy")
    suspect = policy.assign("other")
    assert suspect and suspect.alone and suspect.unit == 1


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


def test_a_task_is_cut_and_its_rest_is_next_in_turn() -> None:
    policy: Policy[str] = Policy(depth=9)
    policy.add(0, range(5))
    policy.add(1, range(2))
    handed = [policy.assign("w", at_most) for at_most in (2, 2, None, 1, 9)]
    assert [(task.unit, task.indices) for task in handed if task] == [
        (0, (0, 1)), (0, (2, 3)), (0, (4,)), (1, (0,)), (1, (1,)),
    ]  # fmt: skip
    actions = [policy.finished(task.id, str(task.indices)) for task in handed if task]
    assert actions[2] == [Commit(0, ("(0, 1)", "(2, 3)", "(4,)"))] and actions[4] == [Commit(1, ("(0,)", "(1,)"))]
    assert not actions[0] and not actions[1] and not actions[3]


def test_what_was_in_hand_is_suspect_and_the_rest_goes_on() -> None:
    policy: Policy[str] = Policy(depth=2)
    policy.add(0, range(5))
    policy.add(1, range(2))
    for _ in range(2):
        task = policy.assign("w")
        assert task
        policy.started(task.id)
    policy.died("w", "worker_died", {(0, 3)})
    suspect, *rest = (policy.assign(worker) for worker in "abc")
    assert suspect and suspect.alone and (suspect.unit, suspect.indices) == (0, (3,))
    assert sorted((task.unit, task.indices, task.alone) for task in rest if task) == [
        (0, (0, 1, 2, 4), False),
        (1, (0, 1), False),
    ]


def test_a_recorder_that_never_has_the_culprit_is_believed_three_times() -> None:
    policy: Policy[str] = Policy(depth=1)
    policy.add(0, range(4))
    for _ in range(DEATHS_NEAR):
        task = policy.assign("w")
        assert task and not task.alone
        policy.started(task.id)
        policy.died("w", "worker_died", set())
    suspects = policy.assign("w")
    assert suspects and suspects.alone and len(suspects.indices) == 2


def test_memory_that_runs_out_leaves_the_other_tasks_of_the_worker_alone() -> None:
    policy: Policy[str] = Policy(depth=2)
    policy.add(0, range(3))
    policy.add(1, [0])
    first, second = policy.assign("w"), policy.assign("w")
    assert first and second
    policy.started(first.id)
    assert policy.overwhelmed(first.id, "out_of_memory", [(0, 1)]) == []
    assert policy.assign("w") is None, "it is emptied for the suspect"
    assert policy.finished(second.id, "piece") == [Commit(1, ("piece",))]
    alone = policy.assign("w")
    assert alone and alone.alone and alone.indices == (1,)
    assert policy.overwhelmed(alone.id, "out_of_memory", [(0, 1)]) == []
    again = policy.assign("w")
    assert again and policy.overwhelmed(again.id, "out_of_memory", [(0, 1)]) == [Quarantine(0, 1, "out_of_memory")]


def test_a_death_after_the_last_acknowledgement_ends_too() -> None:
    """While the shard is written, say: whoever is always there is tried alone in the end."""
    policy: Policy[str] = Policy(depth=1)
    policy.add(0, range(2))
    actions: list[object] = []
    for _ in range(20):
        if not (task := policy.assign("w")):
            break
        policy.started(task.id)
        policy.acked(task.id, task.indices)
        if 0 in task.indices:
            actions += policy.died("w", "worker_died", set())
        else:
            actions += policy.finished(task.id, "piece")
    assert Quarantine(0, 0, "worker_died") in actions and Quarantine(0, 1, "worker_died") not in actions


@dataclass
class Running:
    """What a worker really does with a task: which outputs it has acknowledged, whether anybody heard that it began."""

    task: Task
    begun: bool = False
    acked: set[int] = field(default_factory=set)

    @property
    def unsettled(self) -> list[int]:
        return [i for i in self.task.indices if i not in self.acked]

    @property
    def is_single(self) -> bool:
        return self.task.alone and len(self.task.indices) == 1


CAUSES = {
    "exit": "worker_died",  # at once
    "hang": "timeout",
    "memory": "out_of_memory",  # the attempt gives in, its worker lives
    "late": "worker_died",  # while another output is in hand, or none
    "write": "worker_died",  # when all of the task is acknowledged
}
SIZES = st.integers(1, 6)
DEADLY = st.dictionaries(st.integers(0, 5), st.sampled_from(list(CAUSES)), max_size=2)
KNOWLEDGE = ("right", "crowded", "unknown", "empty", "wrong")
"""What a flight recorder may say: the culprit, others with it, nothing that can be read, nothing, others alone."""


class AnyInterleaving(RuleBasedStateMachine):
    """Some outputs end whatever process takes them up, or use up its memory. All the rest may happen at any time.

    From outside, a worker may be killed too, but not while it has a single output alone: that would look just like it.
    """

    PLACES = ("a", "b", "c")
    """Where there is a worker at a time; the one that follows a dead one has another name."""
    DEPTH = 2

    def __init__(self) -> None:
        super().__init__()
        self.policy: Policy[tuple[int, ...]] = Policy(self.DEPTH)
        self.deadly: dict[OutputIndex, str] = {}
        self.sizes: dict[int, int] = {}
        self.on: dict[str, dict[int, Running]] = {place: {} for place in self.PLACES}
        self.deaths: Counter[str] = Counter()
        self.settled: set[OutputIndex] = set()
        self.rows: Counter[OutputIndex] = Counter()
        self.quarantined: set[OutputIndex] = set()
        self.committed: set[int] = set()

    @initialize(units=st.lists(st.tuples(SIZES, DEADLY), max_size=8))
    def begin(self, units: list[tuple[int, dict[int, str]]]) -> None:
        for size, deadly in units:
            self.add(size, deadly)

    @rule(size=SIZES, deadly=DEADLY)
    def add(self, size: int, deadly: dict[int, str]) -> None:
        unit = len(self.sizes)
        self.sizes[unit] = size
        self.deadly |= {(unit, i): kind for i, kind in deadly.items() if i < size}
        self.policy.add(unit, range(size))

    @rule(place=st.sampled_from(PLACES), at_most=st.none() | st.integers(1, 4), start=st.booleans())
    def assign(self, place: str, at_most: int | None, start: bool) -> None:
        task = self.policy.assign(self._name(place), at_most)
        if task is None:
            return
        here = self.on[place]
        assert len(here) < self.DEPTH
        assert not any(running.task.alone for running in here.values()), "a suspect has company"
        assert not (task.alone and here), "a suspect has company"
        assert at_most is None or task.alone or len(task.indices) <= at_most
        assert self._outputs(task).isdisjoint(self.settled | self._under_way()), "an output is done twice"
        here[task.id] = Running(task, begun=start)
        if start:
            self.policy.started(task.id)

    @rule(place=st.sampled_from(PLACES), heard=st.booleans(), data=st.data())
    def work(self, place: str, heard: bool, data: st.DataObject) -> None:
        """The worker gets some way with one of its tasks; if it isn't `heard`, all news of that are lost if it dies."""
        if self.on[place]:
            running = self.on[place][data.draw(st.sampled_from(sorted(self.on[place])))]
            order = data.draw(st.permutations(running.unsettled))
            order = order[: data.draw(st.integers(0, len(order)))]
            self._work(place, running, order, heard, data.draw(st.sampled_from(KNOWLEDGE)))

    def _work(self, place: str, running: Running, order: Sequence[int], heard: bool, knowledge: str) -> None:
        task, late = running.task, None
        if heard:
            self._begin(running)
        for index in order:
            kind = self._kind(task, index)
            if late is not None or kind in ("exit", "hang"):
                self._die(place, running, index if late is None else late, knowledge)
                return
            if kind == "memory":
                self._run_out_of_memory(place, running, index, knowledge)
                return
            if kind == "late":
                late = index
            else:
                running.acked.add(index)
                if heard:
                    self.policy.acked(task.id, [index])
        if len(running.acked) + (late is not None) < len(task.indices):
            return
        culprits = [late] if late is not None else [i for i in task.indices if self._kind(task, i) == "write"]
        if culprits:
            self._die(place, running, culprits[0], knowledge)
        else:
            del self.on[place][task.id]
            self._settle(task)
            self._act(self.policy.finished(task.id, task.indices))

    def _kind(self, task: Task, index: int) -> str:
        return self.deadly.get((task.unit, index), "")

    def _begin(self, running: Running) -> None:
        running.begun = True
        self.policy.started(running.task.id)

    def _die(self, place: str, running: Running, culprit: int, knowledge: str) -> None:
        in_hand = self._in_hand(place, (running.task.unit, culprit), knowledge)
        self._act(self.policy.died(self._leave(place), CAUSES[self._kind(running.task, culprit)], in_hand))

    def _name(self, place: str) -> str:
        return f"{place}{self.deaths[place]}"

    def _leave(self, place: str) -> str:
        """The worker there is gone; its name."""
        name = self._name(place)
        self.on[place].clear()
        self.deaths[place] += 1
        return name

    def _run_out_of_memory(self, place: str, running: Running, culprit: int, knowledge: str) -> None:
        self._begin(running)
        task = running.task
        found = self._in_hand(place, (task.unit, culprit), knowledge) or ()
        del self.on[place][task.id]
        self._act(self.policy.overwhelmed(task.id, "out_of_memory", [each for each in found if each[0] == task.unit]))

    def _in_hand(self, place: str, culprit: OutputIndex, knowledge: str) -> set[OutputIndex] | None:
        others = {(r.task.unit, i) for r in self.on[place].values() if r.begun for i in r.unsettled} - {culprit}
        few = set(sorted(others)[:3])
        said = {"right": {culprit}, "crowded": {culprit} | few, "empty": set(), "wrong": few}
        return said.get(knowledge)

    @rule(place=st.sampled_from(PLACES), data=st.data())
    def give_a_task_back(self, place: str, data: st.DataObject) -> None:
        if self.on[place]:
            self._give_back(place, data.draw(st.sampled_from(sorted(self.on[place]))))

    def _give_back(self, place: str, task: int) -> None:
        del self.on[place][task]
        self.policy.returned(task)

    @rule(place=st.sampled_from(PLACES))
    def lose_a_node(self, place: str) -> None:
        self.policy.lost(self._leave(place))

    @rule(times=st.integers(2, 4), nodes=st.booleans())
    def nodes_or_the_store_come_and_go(self, times: int, nodes: bool) -> None:
        """Each takes up a task, suspects among them, and is lost, or gives it back."""
        for place in self.PLACES * times:
            self.assign(place, None, start=True)
            if nodes:
                self.lose_a_node(place)
            for task in list(self.on[place]):
                self._give_back(place, task)

    @rule(place=st.sampled_from(PLACES), cause=st.sampled_from(["worker_died", "timeout"]), data=st.data())
    def kill_from_outside(self, place: str, cause: str, data: st.DataObject) -> None:
        if not any(running.is_single for running in self.on[place].values()):
            in_hand = data.draw(st.none() | st.sets(st.sampled_from(sorted(self._on(place)) or [(0, 0)])))
            self._act(self.policy.died(self._leave(place), cause, in_hand))

    @rule(place=st.sampled_from(PLACES), data=st.data())
    def use_up_memory_from_outside(self, place: str, data: st.DataObject) -> None:
        tasks = sorted(id for id, running in self.on[place].items() if running.begun and not running.is_single)
        if tasks:
            task = data.draw(st.sampled_from(tasks))
            in_hand = data.draw(st.sets(st.sampled_from(sorted(self._outputs(self.on[place][task].task)))))
            del self.on[place][task]
            self._act(self.policy.overwhelmed(task, "out_of_memory", in_hand))

    def _on(self, place: str) -> set[OutputIndex]:
        return set().union(*(self._outputs(running.task) for running in self.on[place].values()))

    def _under_way(self) -> set[OutputIndex]:
        return set().union(*map(self._on, self.PLACES))

    @staticmethod
    def _outputs(task: Task) -> set[OutputIndex]:
        return {(task.unit, i) for i in task.indices}

    def _settle(self, task: Task) -> None:
        assert self.settled.isdisjoint(self._outputs(task))
        self.settled |= self._outputs(task)

    def _act(self, actions: Sequence[Action[tuple[int, ...]]]) -> None:
        for action in actions:
            if isinstance(action, Quarantine):
                output = (action.unit, action.index)
                assert output in self.deadly, "an innocent is quarantined"
                assert action.cause == CAUSES[self.deadly[output]] and output not in self.settled
                self.quarantined.add(output)
                self.settled.add(output)
                self._act(self.policy.quarantined(action.unit, action.index, (action.index,)))
            else:
                assert action.unit not in self.committed, "a unit is committed once"
                self.committed.add(action.unit)
                self.rows.update((action.unit, i) for piece in action.pieces for i in piece)

    @invariant()
    def committed_units_have_each_row_once(self) -> None:
        expected = {(u, i) for u in self.committed for i in range(self.sizes[u])}
        assert set(self.rows) == expected and all(n == 1 for n in self.rows.values())

    @precondition(lambda self: self.sizes)
    @rule(knowledge=st.lists(st.sampled_from(KNOWLEDGE), min_size=1, max_size=5), at_most=st.none() | st.integers(1, 4))
    def it_ends(self, knowledge: list[str], at_most: int | None) -> None:
        """Once nothing more comes from outside, whatever the recorder says."""
        said = cycle(knowledge)
        for _ in range(300 * len(self.sizes)):
            if self.committed == set(self.sizes):
                break
            for place in self.PLACES * self.DEPTH:
                self.assign(place, at_most, start=True)
            for place in self.PLACES:
                running = next(iter(self.on[place].values()), None)
                if running:
                    self._work(place, running, running.unsettled, True, next(said))
        assert self.committed == set(self.sizes)
        assert self.quarantined == set(self.deadly)


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def deaths_until_the_end(
    sizes: Sequence[int], culprit: OutputIndex, in_hand: Callable[[Task], Collection[int] | None], at_most: int | None
) -> int:
    """How often a worker dies until all units are whole, of one output that ends it and is never acknowledged."""
    policy: Policy[str] = Policy(depth=3)
    for unit, size in enumerate(sizes):
        policy.add(unit, range(size))
    deaths, committed, actions = 0, 0, list[Action[str]]()
    while committed < len(sizes):
        tasks = list(iter(lambda: policy.assign("w", at_most), None))
        for task in tasks:
            policy.started(task.id)
        deadly = next((t for t in tasks if t.unit == culprit[0] and culprit[1] in t.indices), None)
        if deadly:
            deaths += 1
            held = in_hand(deadly)
            actions = policy.died("w", "worker_died", None if held is None else {(deadly.unit, i) for i in held})
        else:
            actions = [action for task in tasks for action in policy.finished(task.id, "piece")]
        for action in actions:
            if isinstance(action, Quarantine):
                assert (action.unit, action.index) == culprit
                actions += policy.quarantined(action.unit, action.index, "row")
            committed += isinstance(action, Commit)
    return deaths


@given(
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=5),
    place=st.integers(0, 400),
    others=st.integers(0, 20),
    at_most=st.none() | st.integers(1, 30),
)
@settings(deadline=None, max_examples=100)
def test_what_one_culprit_costs(sizes: list[int], place: int, others: int, at_most: int | None) -> None:
    outputs = [(unit, i) for unit, size in enumerate(sizes) for i in range(size)]
    culprit = outputs[place % len(outputs)]

    def right(task: Task) -> list[int]:
        return [culprit[1]]

    def crowded(task: Task) -> list[int]:
        return [culprit[1], *[i for i in task.indices if i != culprit[1]][:others]]

    def cost(in_hand: Callable[[Task], Collection[int] | None]) -> int:
        return deaths_until_the_end(sizes, culprit, in_hand, at_most)

    most = 3 * max(sizes)  # what may be on a worker: three tasks
    assert cost(right) == 3, "one in company, two alone"
    assert cost(crowded) <= others.bit_length() + 3, "one of so many in hand"
    assert cost(lambda _: None) <= most.bit_length() + 3
    assert cost(lambda _: []) <= DEATHS_NEAR + most.bit_length() + 3, "a recorder that is always wrong"
