"""Workers, nodes and drivers killed at random moments of a seeded schedule: nothing is lost, nothing is twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.config import UnitParams
from pipeline.status import read_status
from workers.storage import encode, open_store

SEED = 20261123


def workers_of(process: psutil.Process, *, at_work: bool) -> list[psutil.Process]:
    """The worker processes of pixgrad under a driver: those at work, or those that are still starting, too."""
    found = []
    for child in process.children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::WorkerActor.process" if at_work else "ray::WorkerActor"):
            found.append(child)
    return found


def kill_one(process: psutil.Process, pick: random.Random, *, at_work: bool) -> bool:
    """Kill one of a driver's workers; False if there is none."""
    workers = workers_of(process, at_work=at_work)
    if not workers:
        return False
    try:
        pick.choice(workers).send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


class Killer(threading.Thread):
    """Kills this process's workers, `at_most` of them: each within `most` seconds after the run has got on.

    So a run gets on between deaths, however slow the machine is. One in five is killed while it may still be starting.
    """

    def __init__(self, run: Path, at_most: int, most: float):
        super().__init__(daemon=True)
        self.killed = 0
        self._run, self._at_most, self._most = run, at_most, most
        self._over = threading.Event()

    def run(self) -> None:
        pick = random.Random(SEED)
        me = psutil.Process()
        while self.killed < self._at_most:
            before = count_parts(self._run) if self.killed else 0
            while count_parts(self._run) <= before and not self._over.wait(0.1):
                pass
            at_work = pick.random() < 0.8
            self._over.wait(pick.uniform(0, self._most))
            while not self._over.is_set() and not kill_one(me, pick, at_work=at_work):
                self._over.wait(0.1)
            if self._over.is_set():
                return
            self.killed += 1

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def count_parts(run: Path) -> int:
    return len(list(run.glob("manifest/*/*.parquet")))


def slow(count: int) -> list[str]:
    """Names of pictures that take a fifth of a second each."""
    return [f"{i:05d}-slow@compute-{i % 97}" for i in range(count)]


def test_workers_killed_while_they_work(here: Any) -> None:
    source = here.images("source", slow(60))
    job = here.job(source, here.folder / "run")
    with Killer(here.folder / "run", 3, 1.0) as killer:
        outcome = here.run(job)
    assert outcome.exit_code == 0 and killer.killed == 3
    here.check("worker killed", killer.killed, source, job.store)


BROKEN = {"empty": (0, "empty"), "garbage": (-1, "not_an_image"), "cut": (100, "truncated")}
"""By name: how many bytes are left of the picture (-1: other ones), and the code that follows."""


def break_some(source: Path, count: int) -> dict[str, str]:
    """Break every so many of a source's pictures so that `count` are broken; their codes by URI."""
    pictures = sorted(source.iterdir())
    codes: dict[str, str] = {}
    for number, picture in enumerate(pictures[:: len(pictures) // count][:count]):
        left, code = list(BROKEN.values())[number % len(BROKEN)]
        picture.write_bytes(b"no picture" if left < 0 else picture.read_bytes()[:left])
        codes[encode(picture.name)] = code
    return codes


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_thousand_outputs_under_continuous_kills(here: Any) -> None:
    source = here.images("source", [f"{i:05d}-{i % 97}" for i in range(9_800)] + slow(200))
    broken = break_some(source, 600)
    job = here.job(source, here.folder / "run", units=UnitParams(size=50))
    with Killer(here.folder / "run", 1000, 1.0) as killer:
        outcome = here.run(job)
    assert outcome.exit_code == 0 and killer.killed >= 15, "a worker takes seconds to start, then it dies again"
    assert (outcome.counts.outputs, outcome.counts.failed) == (10_000, 600)
    here.check("worker killed, 10,000 outputs, 600 of them broken", killer.killed + 600, source, job.store, broken)


def kill_hard(process: subprocess.Popen[str], *, group: bool) -> None:
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", [False, True], ids=["driver alone", "with all its processes"])
def test_drivers_killed_at_any_moment(here: Any, group: bool) -> None:
    source = here.images("source", slow(240))
    command = here.command(source, here.folder / "run")
    pick = random.Random(SEED + group)
    killed = 0
    while killed < 7:
        process = command.start()
        try:
            process.wait(pick.uniform(1, 22))
        except subprocess.TimeoutExpired:
            kill_hard(process, group=group)
            killed += 1
        else:
            break
    code, _, err = command.run()
    assert code == 0, err
    here.check(
        f"driver killed ({'its process group' if group else 'alone'})",
        killed,
        source,
        open_store(str(here.folder / "run")),
    )


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stopped_run_drains_and_goes_on(here: Any, number: signal.Signals) -> None:
    source = here.images("source", slow(60))
    run = here.folder / "run"
    command = here.command(source, run)
    stops = 0
    for _ in range(2):
        before = count_parts(run)
        process = command.start()
        wait_until(lambda: count_parts(run) > before or process.poll() is not None)  # noqa: B023
        if process.poll() is not None:
            break
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "To go on" in err, err
        assert json.loads((run / "run.json").read_text())["sessions"][-1]["exit_code"] == 130
        stops += 1
    code, _, err = command.run()
    assert code == 0, err
    here.check(f"{number.name}", stops, source, open_store(str(run)))


def nodes(here: Any, images: int, kills: int) -> tuple[Path, int]:
    """A run on a cluster of its own, whose nodes are killed hard; the source and how many died."""
    source = here.images("source", slow(images))
    run = here.folder / "run"
    command = here.command(source, run)
    script = str(Path(__file__).parent / "code" / "dying_nodes.py")
    arguments = [sys.executable, script, str(kills), str(SEED), str(run), *command.arguments]
    done = subprocess.run(arguments, env=os.environ | command.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return source, int(done.stdout.strip().splitlines()[-1])


def test_a_node_that_dies_costs_nobody_anything(here: Any) -> None:
    source, killed = nodes(here, 40, 1)
    assert killed == 1
    found = here.check("node killed", killed, source, open_store(str(here.folder / "run")))
    assert not found.codes


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_nodes_die(here: Any) -> None:
    source, killed = nodes(here, 200, 8)
    assert killed == 8
    here.check("node killed, again and again", killed, source, open_store(str(here.folder / "run")))


@pytest.mark.long
def test_a_driver_killed_hard_does_not_lock_its_successor_out(here: Any) -> None:
    source = here.images("source", slow(24))
    run = here.folder / "run"
    command = here.command(source, run)
    process = command.start()
    wait_until(lambda: count_parts(run) >= 1)
    kill_hard(process, group=False)
    assert read_status(open_store(str(run))).state.startswith("unfinished")
    code, _, err = command.run()
    assert code == 0, err
    here.check("driver killed alone, its processes left behind", 1, source, open_store(str(run)))
