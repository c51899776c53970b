"""A Ray job that is stopped and submitted again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workers.storage import open_store


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert condition()


@pytest.fixture
def head() -> Iterator[Any]:
    """A head node of its own on loopback; gives a client of its jobs."""
    from ray.job_submission import JobSubmissionClient

    port, dashboard, agent = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="head-") as folder:
        ray = str(Path(sys.executable).with_name("ray"))
        options = {"node-ip-address": "127.0.0.1", "port": port, "num-cpus": 2, "temp-dir": folder}
        options |= {
            "dashboard-agent-listen-port": agent,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "object-store-memory": 100_000_000,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        command = [ray, "start", "--head", "--block", *arguments]
        node = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield patiently(lambda: JobSubmissionClient(f"http://127.0.0.1:{dashboard}"))
        finally:
            node.send_signal(signal.SIGTERM)
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)


def patiently(action: Callable[[], Any]) -> Any:
    """What a head node answers once it has come up."""
    for _ in range(120):
        try:
            return action()
        except (ConnectionError, RuntimeError):
            time.sleep(0.5)
    return action()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_ray_job_that_is_stopped_drains_and_goes_on_when_submitted_again(here: Any, head: Any) -> None:
    source = here.images("source", [f"{i:03d}-slow@compute-{i}" for i in range(60)])
    run = here.folder / "run"
    command = here.command(source, run)
    entrypoint = " ".join([str(Path(sys.executable).with_name("pixgrad")), *command.arguments])
    variables = {**command.environment, "PYTHONPATH": os.environ["PYTHONPATH"], "RAY_JOB_STOP_WAIT_TIME_S": "40"}
    stops = 0
    for _ in range(2):
        before = len(list(run.glob("manifest/*/*.parquet")))
        job = patiently(lambda: head.submit_job(entrypoint=entrypoint, runtime_env={"env_vars": variables}))
        wait_until(lambda: len(list(run.glob("manifest/*/*.parquet"))) > before)  # noqa: B023
        head.stop_job(job)
        wait_until(lambda: head.get_job_status(job).is_terminal())  # noqa: B023
        assert json.loads((run / "run.json").read_text())["sessions"][-1]["exit_code"] == 130, head.get_job_logs(job)
        stops += 1
    job = head.submit_job(entrypoint=entrypoint, runtime_env={"env_vars": variables})
    wait_until(lambda: head.get_job_status(job).is_terminal())
    assert str(head.get_job_status(job)) == "SUCCEEDED", head.get_job_logs(job)
    here.check("Ray job stopped", stops, source, open_store(str(run)))
