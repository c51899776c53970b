"""Names inside a run's folder."""

from __future__ import annotations

JOB = "job.yaml"
RUN = "run.json"
EVENTS = "events.jsonl"
MANIFEST = "manifest.parquet"
AUDIT = "audit.json"
SUMMARY = "summary.json"

HIDDEN_RUN = ".pixgrad"
"""The run of a folder of pictures: the folder that it lies in holds its outputs, and is no part of its source."""


def chunk_name(number: int) -> str:
    """A chunk of the frozen listing."""
    return f"plan/{number:06d}.parquet"


def shard_name(unit: int, attempt: str) -> str:
    """A shard; the attempt's id is random."""
    return f"shards/{unit:09d}-{attempt}.tar"


def round_folder(round: int) -> str:
    """The parts of a round."""
    return f"manifest/round={round}"


def part_name(round: int, unit: int) -> str:
    """A unit's part."""
    return f"{round_folder(round)}/{unit:09d}.parquet"


def unit_of_part(name: str) -> int:
    """The unit whose part this is."""
    return int(name.rpartition("/")[2].removesuffix(".parquet"))


def event_segment(epoch: int, number: int) -> str:
    """A stretch of a session's event log, in an object store."""
    return f"events/{epoch:06d}-{number:06d}.jsonl"


def log_name(epoch: int) -> str:
    """A session's log."""
    return f"logs/{epoch:06d}.log"


def log_segment(epoch: int, number: int) -> str:
    """A stretch of a session's log, in an object store."""
    return f"logs/{epoch:06d}-{number:06d}.log"


def driver_name(epoch: int) -> str:
    """A driver's claim on the run."""
    return f"drivers/{epoch:06d}.json"
