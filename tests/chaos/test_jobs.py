"""A job that is submitted to a cluster, stopped, and submitted again."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from jobs.spec import load_job
from jobs.submit import Cluster, Ending
from workers.storage import open_store


def slow(here: Any, images: int) -> Path:
    """A source of pictures that take a fifth of a second each."""
    return here.images("source", [f"{i:03d}-slow@compute-{i}" for i in range(images)])


def last_exit_code(run: Path) -> int:
    return json.loads((run / "run.json").read_text())["sessions"][-1]["exit_code"]


def test_a_job_is_submitted_stopped_and_goes_on_when_submitted_again(here: Any, head: str, wait_until: Any) -> None:
    source, run = slow(here, 60), here.folder / "run"
    submit = here.command(source, run)
    submit.arguments = ["submit", *submit.arguments[1:], "--address", head, "--shared-paths", "--set", "workers.gpus=0"]
    cluster, config = Cluster(head), load_job(here.job_file(source, run), ["workers.gpus=0"])
    submission, _ = cluster.submit(config, ["--allow-code"], shared_paths=True)
    wait_until(lambda: here.parts(run) > 0)
    cluster.stop(submission)
    log: list[str] = []
    assert cluster.follow(submission, log.append).exit_code == 130
    assert "Interrupted." in "".join(log) and last_exit_code(run) == 130 and 0 < here.parts(run) < 15
    code, out, err = submit.run()
    assert code == 0 and "60 of 60 outputs made" in out and f"{submission[:-1]}2 is submitted" in err, out + err
    here.check("Ray job stopped", 1, source, open_store(str(run)))


def test_a_job_ends_with_its_drivers_own_exit_code_and_words(here: Any, head: str) -> None:
    cluster = Cluster(head)
    config = load_job(here.job_file(here.folder / "nowhere", here.folder / "run"))
    submission, _ = cluster.submit(config, ["--allow-code"], shared_paths=True)
    log: list[str] = []
    assert cluster.follow(submission, log.append) == Ending(2)
    assert "nowhere" in "".join(log) and "Traceback" not in "".join(log)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_job_that_is_left_and_stopped_again_and_again(here: Any, head: str, wait_until: Any) -> None:
    source, run, stops = slow(here, 900), here.folder / "run", 3
    submit = here.command(source, run)
    submit.arguments = ["submit", *submit.arguments[1:], "--address", head, "--shared-paths", "--set", "workers.gpus=0"]
    for number in range(1, stops + 1):
        before = here.parts(run)
        following = submit.start()
        wait_until(lambda: here.parts(run) > before)  # noqa: B023
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=60)
        assert following.returncode == 130 and f"-{number} is submitted" in err, err
        assert "The job goes on." in err and "--stop" in err, err
        code, _, err = submit.run("--no-wait")
        assert code == 0 and f"-{number} is under way already" in err, err
        code, out, err = submit.run("--stop")
        assert code == 0 and "Interrupted." in out and "Stopping pixgrad-" in err, out + err
        assert last_exit_code(run) == 130
    code, out, err = submit.run("--stop")
    assert code == 2 and err.startswith("No job of the run at ") and not out
    code, out, err = submit.run(timeout=400)
    assert code == 0 and "900 of 900 outputs made" in out, out + err
    here.check("Ray job left, then stopped", stops, source, open_store(str(run)))
