"""A job that is submitted to a cluster, stopped, and submitted again."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from workers.storage import open_store


def parts(run: Path) -> int:
    return len(list(run.glob("manifest/*/*.parquet")))


def stop_and_go_on(here: Any, head: str, wait_until: Any, images: int, stops: int) -> None:
    """A job that is stopped so many times while it is at work, and sent again each time."""
    source = here.images("source", [f"{i:03d}-slow@compute-{i}" for i in range(images)])
    run = here.folder / "run"
    submit = here.command(source, run)
    submit.arguments = ["submit", *submit.arguments[1:], "--address", head, "--set", "workers.gpus=0"]
    for number in range(1, stops + 1):
        before = parts(run)
        following = submit.start()
        wait_until(lambda: parts(run) > before)  # noqa: B023
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=60)
        assert following.returncode == 130 and f"-{number} is submitted" in err, err
        assert "The job goes on." in err and "--stop" in err, err
        code, out, err = submit.run("--stop")
        assert code == 0 and "Stopping pixgrad-" in err, err
        assert "Interrupted." in out, out
        assert json.loads((run / "run.json").read_text())["sessions"][-1]["exit_code"] == 130
    code, out, err = submit.run()
    assert code == 0 and f"{images} of {images} outputs made" in out, out + err
    here.check("Ray job stopped", stops, source, open_store(str(run)))


def test_a_job_is_submitted_stopped_and_goes_on_when_submitted_again(here: Any, head: str, wait_until: Any) -> None:
    stop_and_go_on(here, head, wait_until, images=24, stops=1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_job_that_is_stopped_again_and_again(here: Any, head: str, wait_until: Any) -> None:
    stop_and_go_on(here, head, wait_until, images=100, stops=4)
