"""A job on a cluster, through Ray Jobs: sent, followed, stopped, and gone on with by sending it again.

Ray doesn't retry jobs, and needn't: a submission is one session of the run at `output`, so its id is made of that
place and the number of the try, and at most one is under way.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jobs.parcel import JOB_FILE, pack
from pipeline.config import JobConfig
from pipeline.patterns import absolute
from workers.errors import PixgradError, first_line

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

STOP_SECONDS = 60
"""How long a stopped job may take before it is killed: the driver's ten seconds of draining, commits, and a margin."""

CONNECT_SECONDS = 10.0

PATIENCE = 60.0
"""Seconds for which the cluster may be out of reach while a job is followed."""

DOCUMENTED = frozenset((0, 1, 2, 3, 4, 5, 6, 130))
"""The exit codes that mean something; a driver that ends with another was killed."""

Write = Callable[[str], None]


class SubmitError(PixgradError):
    """The cluster can't be reached, or doesn't take the job."""


class LostError(PixgradError):
    """What became of the job isn't known; what it has committed stays."""

    exit_code = 4


@dataclass(frozen=True)
class Ending:
    """How a job ended: the exit code for the command line, and a sentence if the job's own words don't say it."""

    exit_code: int
    sentence: str = ""


class _Log:
    """Writes each character of a log once, however often it is read from its beginning."""

    def __init__(self, write: Write):
        self._write = write
        self._written = 0

    def add(self, start: int, text: str) -> None:
        """A piece of the log that begins at its character `start`, which is no gap behind the last."""
        if new := text[max(0, self._written - start) :]:
            self._write(new)
            self._written = start + len(text)


class Cluster:
    """The jobs of a Ray cluster, by the address of its dashboard. Raises SubmitError if there is none."""

    def __init__(self, address: str):
        self.address = address
        self._client = _connect(address)

    def submit(
        self, config: JobConfig, options: Sequence[str] = (), *, shared_paths: bool = False, installed: bool = False
    ) -> tuple[str, bool]:
        """Send a job, with options of `pixgrad run`; its id, and whether this call began it or it was under way.

        `shared_paths`: every node sees this machine's paths, so files stay where they are. `installed`: run the pixgrad
        that the cluster has, instead of sending this one. Raises SubmitError, ParcelError.
        """
        if running := self.running(config):
            return running, False
        with tempfile.TemporaryDirectory(prefix="pixgrad-submit-") as folder:
            pack(config, Path(folder), shared_paths=shared_paths, code=not installed)
            with _answering(self.address):
                submission = self._client.submit_job(
                    entrypoint=entrypoint(options, installed=installed),
                    submission_id=f"{_prefix(config)}{len(self._submissions(config)) + 1}",
                    runtime_env={"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}},
                    metadata={"pixgrad_run": absolute(config.output)},
                )
        return submission, True

    def running(self, config: JobConfig) -> str | None:
        """The id of the submission of this run that is under way, if there is one."""
        return next((s.submission_id for s in self._submissions(config) if not s.status.is_terminal()), None)

    def stop(self, submission: str) -> None:
        """Ask a job to end: it drains for some seconds, and commits what it can."""
        with _answering(self.address):
            self._client.stop_job(submission)

    def follow(self, submission: str, write: Write) -> Ending:
        """Write a job's log as it grows, until the job ends. Raises LostError."""
        log, reached = _Log(write), time.monotonic()
        while True:
            with suppress(Exception):  # Ray, requests and aiohttp each raise their own; not every proxy lets it through
                asyncio.run(self._tail(submission, log))
            try:
                job = self._client.get_job_info(submission)
                log.add(0, self._client.get_job_logs(submission))
                reached = time.monotonic()
            except Exception as error:
                if time.monotonic() - reached > PATIENCE:
                    raise LostError(
                        f"{self.address} has not answered for {PATIENCE:.0f} s ({first_line(error)}); "
                        f"the job may go on, and the same command follows it again."
                    ) from None
            else:
                if job.status.is_terminal():
                    return _ending(job)
            time.sleep(1)

    async def _tail(self, submission: str, log: _Log) -> None:
        start = 0
        async for text in self._client.tail_job_logs(submission):
            log.add(start, text)
            start += len(text)

    def _submissions(self, config: JobConfig) -> list[Any]:
        with _answering(self.address):
            return [j for j in self._client.list_jobs() if (j.submission_id or "").startswith(_prefix(config))]


def entrypoint(options: Sequence[str], *, installed: bool) -> str:
    """What a job runs, in a folder with the job file."""
    command = ["pixgrad"] if installed else ["python", "-P", "-c", "from jobs.cli import main; main()"]
    return shlex.join([*command, "run", JOB_FILE, *options])


def _prefix(config: JobConfig) -> str:
    return f"pixgrad-{hashlib.sha256(absolute(config.output).encode()).hexdigest()[:12]}-"


def _connect(address: str) -> JobSubmissionClient:
    where = urlsplit(address)
    if where.scheme not in ("http", "https") or not where.hostname:
        raise SubmitError(f"--address {address} is no URL of a Ray dashboard, such as http://127.0.0.1:8265.")
    with _answering(address):
        port = where.port or {"http": 80, "https": 443}[where.scheme]
        socket.create_connection((where.hostname, port), CONNECT_SECONDS).close()
        try:
            from ray.job_submission import JobSubmissionClient

            os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers RAY_ADDRESS to what it is told
            for module in ("dashboard_sdk", "job.sdk"):
                logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
            return JobSubmissionClient(address)
        except (ImportError, NameError):
            pass
        except RuntimeError as error:
            if "ray[default]" not in str(error):
                raise
    raise SubmitError("`pixgrad submit` needs Ray's client of jobs: pip install 'pixgrad[submit]'.")


@contextmanager
def _answering(address: str) -> Iterator[None]:
    """What Ray's client raises, as a sentence."""
    try:
        yield
    except PixgradError:
        raise
    except OSError as error:  # those of requests are among them
        reason = error.strerror or first_line(error)
        raise SubmitError(f"No Ray dashboard answers at {address}: {reason}.") from None
    except Exception as error:  # RuntimeError, ValueError and Ray's own
        if type(error).__name__ == "AuthenticationError":
            raise SubmitError(
                f"{address} asks for a token and refuses ours: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                f"RAY_AUTH_TOKEN_PATH to the cluster's."
            ) from None
        raise SubmitError(f"The Ray dashboard at {address} does not take it: {first_line(error)}") from None


def _ending(job: JobDetails) -> Ending:
    code, status = job.driver_exit_code, str(job.status)
    if status == "SUCCEEDED":
        return Ending(0)
    if status == "STOPPED":
        return Ending(130, "The job was stopped.")
    if code is None:
        return Ending(4, f"The job ended before its command did: {first_line(Exception(job.message))}")
    if code not in DOCUMENTED:
        return Ending(4, f"The job's driver was killed (exit code {code}).")
    return Ending(code)
