"""Two drivers on one run: one is refused; where a claim is stolen all the same, a unit is committed once."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from workers.storage import open_store


def wait_for_parts(here: Any, run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while here.parts(run) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert here.parts(run) >= count


def test_a_stolen_claim_commits_nothing_twice(here: Any) -> None:
    """The first driver is stopped, taken for dead and superseded; it wakes up while the second works."""
    source = here.images("source", [f"{i:03d}-slow@compute-{i}" for i in range(40)])
    run = here.folder / "run"
    command = here.command(source, run, unit=2)
    first = command.start()
    wait_for_parts(here, run, 1)
    first.send_signal(signal.SIGSTOP)
    here.silence(run)
    second = command.start()
    wait_for_parts(here, run, 4)
    first.send_signal(signal.SIGCONT)
    _, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    _, err = first.communicate(timeout=60)
    assert first.returncode == 5 and "taken over" in err, err
    here.check("claim stolen from a stopped driver", 1, source, open_store(str(run)))
    assert json.loads((run / "run.json").read_text())["state"] == "complete"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_drivers_race(here: Any, wait_until: Any) -> None:
    source = here.images("source", [f"{i:03d}-slow@compute-{i}" for i in range(40)])
    run = here.folder / "run"
    command = here.command(source, run, unit=2)
    rounds = 2
    for _ in range(rounds):
        before, racers = here.parts(run), [command.start() for _ in range(2)]

        def one_is_out_and_the_other_at_work() -> bool:
            ended = [racer.poll() is not None for racer in racers]  # noqa: B023
            return all(ended) or (any(ended) and here.parts(run) > before)  # noqa: B023

        wait_until(one_is_out_and_the_other_at_work)
        here.silence(run)
        codes = []
        for racer in racers:
            if racer.poll() is None:
                racer.send_signal(signal.SIGTERM)
            racer.communicate(timeout=60)
            codes.append(racer.returncode)
        assert sorted(codes)[0] in (0, 5) and set(codes) <= {0, 5, 130}, codes
    code, _, err = command.run()
    assert code == 0, err
    here.check("two drivers started at once", 2 * rounds, source, open_store(str(run)))
