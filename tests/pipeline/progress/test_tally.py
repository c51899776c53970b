"""What a tally makes of the events of a session, and what it says as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.progress.tally import Load, Tally
from workers.usage import Usage

SECONDS = {"decode": 1.0, "compute": 8.0, "encode": 1.0}


def commit(tally: Tally, now: float, outputs: int = 4, **failures: int) -> None:
    tally.see("committed", {"unit": 0, "outputs": outputs, "failures": failures, "seconds": SECONDS}, now)


def at_work(workers: int = 2, gpus: float = 0.0) -> Tally:
    """96 outputs, 16 of them from a former session; 2 outputs a second for 60 seconds, a unit of 4 every 2 seconds."""
    tally = Tally(gpus=gpus, total=200, listing=False, before=16)
    for number in range(workers):
        tally.see("worker_starting", {"worker": f"worker-{number}"}, now=0.0)
    for number in range(workers):
        tally.see("worker_ready", {"worker": f"worker-{number}"}, now=8.0)
    for second in range(61):
        tally.ack(2, now=10.0 + second)
        if second % 2:
            commit(tally, 10.0 + second)
    return tally


def test_counts_of_outputs() -> None:
    tally = at_work()
    assert (tally.committed, tally.acked, tally.done) == (16 + 120, 2, 138)
    assert tally.rate(70.0) == pytest.approx(2.0)
    assert tally.rate_each(70.0) == pytest.approx(1.0)
    assert tally.shares() == pytest.approx({"decode": 0.1, "compute": 0.8, "encode": 0.1})


def test_a_rate_for_each_gpu() -> None:
    assert at_work(workers=2, gpus=2.0).rate_each(70.0) == pytest.approx(0.5)


def test_the_time_to_go_comes_from_what_is_committed() -> None:
    tally = at_work()
    told = tally.remaining(70.0)
    assert told == pytest.approx((200 - 136) / (116 / 58) - 1, rel=0.02)
    tally.ack(50, now=70.0)  # what a worker that dies now has done is done again
    assert tally.remaining(70.0) == pytest.approx(told)
    tally.listing = True
    assert tally.remaining(70.0) is None, "nobody knows how much there is"


def test_before_the_first_commits_it_comes_from_what_is_done() -> None:
    tally = Tally(total=100, listing=False)
    for second in range(11):
        tally.ack(1, now=float(second))
    assert tally.remaining(10.0) == pytest.approx(89.0)


def test_workers_come_die_and_are_replaced() -> None:
    tally = Tally()
    for event in ("starting", "starting", "ready", "start_failed", "died", "starting", "ready", "hung", "starting"):
        tally.see(f"worker_{event}", {"worker": "w", "error": "e"}, now=0.0)
    assert (tally.workers, tally.starting, tally.restarts) == (0, 1, 2)


def test_failures_by_reason() -> None:
    tally = at_work()
    commit(tally, 71.0, truncated=2)
    commit(tally, 72.0, truncated=1, missing=1)
    assert tally.failed == 4 and tally.failures == {"truncated": 3, "missing": 1}


def test_loads_are_sums_but_for_the_gpus() -> None:
    load = Load.of([Usage(1.5, 2_000, gpu=0.9, gpu_memory=10), Usage(0.5, 1_000, gpu=0.7, gpu_memory=30)])
    assert load == Load(2.0, 3_000, pytest.approx(0.8), 20)  # pyright: ignore[reportArgumentType]
    assert Load.of([Usage(1.0, 5)]) == Load(1.0, 5, None, None)


def test_facts_are_json_with_these_names() -> None:
    tally = at_work(gpus=1.0)
    tally.load = Load(1.5, 2_000, 0.9, 10)
    facts: dict[str, Any] = json.loads(json.dumps(tally.facts(70.0)))
    assert facts == {
        "outputs": 200,
        "listing": False,
        "done": 138,
        "committed": 136,
        "committed_before": 16,
        "failures": {},
        "outputs_per_second": 2.0,
        "outputs_per_second_each": 1.0,
        "seconds_to_go": pytest.approx(31.0, abs=0.5),
        "workers": 2,
        "workers_starting": 0,
        "worker_restarts": 0,
        "gpus_per_worker": 1.0,
        "shares": {"decode": 0.1, "compute": 0.8, "encode": 0.1},
        "load": {"cpus": 1.5, "memory": 2000, "gpu": 0.9, "gpu_memory": 10},
        "stopping": False,
    }


def test_who_reads_the_events_knows_what_who_saw_them_knows() -> None:
    seen, read = Tally(gpus=1.0), Tally()
    for second in range(121):
        now = float(second)
        seen.total, seen.before, seen.listing, seen.load = 500, 20, False, Load(1.0, 7, 0.5, 3)
        seen.ack(1, now)
        if second % 4 == 3:
            commit(seen, now, missing=1)
            commit(read, now, missing=1)
        if second % 30 == 0:
            read.see("progress", json.loads(json.dumps(seen.facts(now))), now)
    for name in ("gpus", "total", "before", "listing", "load", "committed", "done", "failures"):
        assert getattr(read, name) == getattr(seen, name), name
    assert read.rate(120.0) == pytest.approx(seen.rate(120.0), rel=0.05)
    assert read.remaining(120.0) == pytest.approx(seen.remaining(120.0), rel=0.05)
