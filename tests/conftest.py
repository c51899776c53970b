"""What every test may lean on: a Ray of this test run's own, a fixed number of threads, real photographs."""

from __future__ import annotations

import logging
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "rocket.jpg",
)


def pytest_configure(config: pytest.Config) -> None:
    """Settle Ray's environment before a test module imports Ray; subprocesses inherit it."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray's sockets lie in it, and their paths are limited to 107 bytes
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.update(
        RAY_TMPDIR=folder,
        RAY_AUTH_MODE="disabled",
        RAY_BACKEND_LOG_LEVEL="error",
        RAY_USAGE_STATS_ENABLED="0",
        PYTHONPATH=str(Path(__file__).parent / "chaos" / "code"),
        FAULTS_FOLDER=folder,
        OMP_WAIT_POLICY="PASSIVE",  # threads that spin while they wait slow each other down on two cores
    )


class Tally(NamedTuple):
    """One line of the table of faults: how often it was tried, and what went wrong."""

    fault: str
    tried: int
    lost: int
    doubled: int
    blamed: int
    changed: int


TALLIES: list[Tally] = []


@pytest.fixture(scope="session")
def tally_fault() -> Callable[..., None]:
    """Add a line to the table of faults, which is printed at the end."""
    return lambda *line: TALLIES.append(Tally(*line))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist's: hand the lines to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tallies"] = [list(tally) for tally in TALLIES]  # pyright: ignore


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect them."""
    TALLIES.extend(Tally(*line) for line in getattr(node, "workeroutput", {}).get("tallies", ()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of faults."""
    if not TALLIES:
        return
    columns = "{:<64} {:>6} {:>5} {:>8} {:>7} {:>8}".format
    lines = ["", columns(*Tally._fields), *(columns(*tally) for tally in sorted(TALLIES))]
    for line in [*lines, f"{'all':<64} {sum(tally.tried for tally in TALLIES):>6}"]:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """Fix torch's threads: results to the last bit depend on their number."""
    import torch

    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def photographs() -> dict[str, Path]:
    """Real photographs by name without suffix ("chelsea"): colour PNG and JPEG, and the grey "camera"."""
    folder = Path(str(files("skimage"))) / "data"
    return {Path(name).stem: folder / name for name in PHOTOGRAPHS}


@pytest.fixture(scope="session")
def load_helper() -> Callable[[str], SimpleNamespace]:
    """Load tests/<name>.py: the folders of tests are no packages, so a test can't import from beside it."""
    return lambda name: SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name(f"{name}.py"))))


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One local Ray of two CPUs for the whole test run."""
    import ray

    ray.init(
        num_cpus=2,
        object_store_memory=256 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"working_dir": str(tmp_path_factory.mktemp("working_dir"))},
    )
    yield
    ray.shutdown()


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def head() -> Iterator[str]:
    """A cluster on loopback, of one node with two CPUs and two GPUs that aren't there; gives its dashboard's URL."""
    dashboard = free_port()
    with tempfile.TemporaryDirectory(prefix="head-") as folder:
        options: dict[str, Any] = {"node-ip-address": "127.0.0.1", "port": free_port(), "temp-dir": folder}
        options |= {"num-cpus": 2, "num-gpus": 2}
        options |= {"dashboard-host": "127.0.0.1", "dashboard-port": dashboard}
        options |= {"dashboard-agent-listen-port": free_port(), "object-store-memory": 100_000_000}
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
        environment = os.environ | {
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "PATH": f"{ray.parent}:{os.environ['PATH']}",
        }  # a job's `python` is this one
        quiet = subprocess.DEVNULL
        node = subprocess.Popen(command, start_new_session=True, env=environment, stdout=quiet, stderr=quiet)
        try:
            wait_for_jobs(f"http://127.0.0.1:{dashboard}")
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            node.send_signal(signal.SIGTERM)
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)


def wait_for_jobs(dashboard: str) -> None:
    """Until a head node that starts can take jobs."""
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{dashboard}/api/jobs/").close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"no head node came up at {dashboard}")


@pytest.fixture(scope="module")
def make_bucket() -> Iterator[Callable[[], str]]:
    """Make a bucket in an S3 server on loopback; gives its URL."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ALLOW_HTTP": "true", "REGION": "us-east-1"}
        settings |= {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
        for name, value in settings.items():
            patch.setenv(f"AWS_{name}", value)
        client: Any = boto3.client("s3", endpoint_url=settings["ENDPOINT_URL"], region_name="us-east-1")

        def make() -> str:
            bucket = f"bucket-{uuid4().hex}"
            client.create_bucket(Bucket=bucket)
            return f"s3://{bucket}"

        yield make
    server.stop()
