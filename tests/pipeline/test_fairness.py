"""The rule by which runs share a cluster, and what becomes of runs that all follow it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fairness import Demand, allowed_workers, fair_shares


def test_what_cannot_be_divided_goes_to_the_oldest() -> None:
    assert fair_shares(8, ["b", "a", "c"]) == {"a": 3, "b": 3, "c": 2}
    assert fair_shares(1, ["a", "b"]) == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    ("most", "room", "others", "allowed"),
    [
        (None, 8, {}, 8),
        (None, 0, {}, 1),
        (16, 0, {}, 16),  # an autoscaler has to see what is asked for
        (None, 8, {"b": Demand(0, 4)}, 4),
        (None, 8, {"b": Demand(0, 1)}, 7),  # who asks for less leaves the rest
        (None, 8, {"b": Demand(8, 0)}, 4),  # who comes late asks for its share of what another holds
        (None, 8, {"b": Demand(4, 4)}, 4),  # who has its share and wants more must wait
        (None, 8, {"b": Demand(0, 0)}, 8),
        (16, 8, {"b": Demand(4, 12)}, 16),  # nobody is owed anything: both wait for more nodes
        (16, 8, {"b": Demand(1, 12)}, 4),
        (2, 8, {"b": Demand(0, 8)}, 2),
    ],
)
def test_what_a_run_may_have(most: int | None, room: int, others: dict[str, Demand], allowed: int) -> None:
    assert allowed_workers(most, room, "a", others) == allowed


@dataclass
class Run:
    """A run whose tasks end at once, so that it follows the rule without delay."""

    most: int | None
    wants: int
    held: int = 0
    waiting: int = 0


def settle(room: int, runs: dict[str, Run]) -> None:
    """All look and act in turn, free places go to who waits, until nothing changes; fails if it goes on for ever."""
    for _ in range(60):
        before = {name: (run.held, run.waiting) for name, run in runs.items()}
        for name, run in runs.items():
            others = {n: Demand(r.held, r.waiting) for n, r in runs.items() if n != name}
            target = min(run.wants, allowed_workers(run.most, room, name, others))
            run.held = min(run.held, target)
            run.waiting = target - run.held
            for other in runs.values():
                granted = min(other.waiting, room - sum(r.held for r in runs.values()))
                other.held, other.waiting = other.held + granted, other.waiting - granted
        if before == {name: (run.held, run.waiting) for name, run in runs.items()}:
            return
    raise AssertionError(f"never settles: {runs}")


@settings(deadline=None)
@given(
    room=st.integers(0, 12),
    wishes=st.lists(st.tuples(st.one_of(st.none(), st.integers(1, 16)), st.integers(1, 16)), min_size=1, max_size=5),
)
def test_runs_that_come_one_after_the_other_settle_with_their_shares(
    room: int, wishes: list[tuple[int | None, int]]
) -> None:
    runs: dict[str, Run] = {}
    for number, (most, wants) in enumerate(wishes):
        runs[f"{number:02d}"] = Run(most, min(wants, most or wants))
        settle(room, runs)
        shares = fair_shares(room, runs)
        for name, run in runs.items():
            assert run.held >= min(run.wants, shares[name]), (name, runs)
        assert sum(r.held for r in runs.values()) == min(room, sum(r.wants for r in runs.values())), runs


def test_what_one_run_leaves_another_takes() -> None:
    runs = {"a": Run(None, 99), "b": Run(None, 99)}
    settle(8, runs)
    assert (runs["a"].held, runs["b"].held) == (4, 4)
    runs["a"].wants = 1
    settle(8, runs)
    assert (runs["a"].held, runs["b"].held) == (1, 7)
