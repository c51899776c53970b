"""One run of a job, or its continuation: claim the folder, fix what the run fixes, drive the units, sum up."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from pipeline.commit import Counts, committed_units, write_manifest
from pipeline.config import JobConfig
from pipeline.driver import Driver, Resources, RunStopped, check_room, cluster, probe, stop_on_signals
from pipeline.epoch import take_over
from pipeline.listing import SourceError
from pipeline.plan import UnitFeed
from pipeline.prepare import PreparedJob
from pipeline.progress import EventLog, Monitor, display
from pipeline.provenance import check_same_job, fingerprint, now, read_run, versions, write_run
from workers.actor import DeviceFacts
from workers.errors import PixgradError
from workers.layout import JOB
from workers.setup import BatchPlan, WorkerSetup
from workers.storage import StorageError

ROUND = 0

CPU_PAIRS = 8
"""Rows of an evaluation of attribution on a CPU; dreams and styles take one image at a time there, which is fastest."""

GPU_BYTES_PER_PIXEL = 8192
"""What a pixel takes on a GPU: activations of a VGG for the backward pass, and an optimiser's history."""

GPU_BATCH = 64

IN_FLIGHT_BYTES = 2 * 2**30
"""Decoded images that may be on a worker at a time."""


@dataclass(frozen=True)
class Fixed:
    """What a run settles when it begins and keeps for good, because results depend on it to the last bit."""

    precision: str
    device: DeviceFacts
    cpus: int
    gpus: float
    batch: BatchPlan

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        return {**asdict(self)}

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Fixed:
        """From run.json."""
        return cls(**{**facts, "device": DeviceFacts(**facts["device"]), "batch": BatchPlan(**facts["batch"])})


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    counts: Counts
    exit_code: int
    seconds: float


def run(job: PreparedJob, *, job_yaml: str, console: Console) -> Outcome:
    """Run a prepared job to its end, or go on with it. `job_yaml` is the resolved job for the run's folder.

    Raises RunBusyError, OtherJobError, RunStopped, StorageError, SourceError and the like; whatever is committed stays.
    """
    before = read_run(job.store)
    if before:
        asked = job.config.precision
        precision = before["fixed"]["precision"] if asked == "auto" else asked
        check_same_job(job.store, before, job.fingerprint_fields(precision))
    driver = take_over(job.store)
    exit_code = 4
    try:
        with cluster():
            fixed = Fixed.from_dict(before["fixed"]) if before else _fix(job)
            facts = _begin(job, fixed, before, job_yaml)
            outcome = _drive(job, fixed, facts, driver.claim.epoch, console)
        exit_code = outcome.exit_code
        return outcome
    except PixgradError as error:
        exit_code = error.exit_code
        raise
    except KeyboardInterrupt:
        exit_code = 130
        raise
    except BaseException:
        exit_code = 1
        raise
    finally:
        driver.release(exit_code)


def _fix(job: PreparedJob) -> Fixed:
    workers = job.config.workers
    facts, gpus, cpus = probe(None if workers.gpus == "auto" else workers.gpus)
    precision = job.config.precision
    if precision == "auto":
        precision = "bf16" if facts.bf16 and job.config.task != "attribution" else "fp32"
    return Fixed(precision, facts, cpus, gpus, _batch_plan(job.config, facts))


def _batch_plan(config: JobConfig, facts: DeviceFacts) -> BatchPlan:
    if config.workers.batch != "auto":
        return BatchPlan(images=config.workers.batch, pixels=0, most=config.workers.batch)
    if facts.device == "cpu":
        return BatchPlan(images=CPU_PAIRS if config.task == "attribution" else 1, pixels=0, most=1)
    return BatchPlan(images=None, pixels=facts.memory // 2 // GPU_BYTES_PER_PIXEL, most=GPU_BATCH)


def _begin(job: PreparedJob, fixed: Fixed, before: dict[str, Any] | None, job_yaml: str) -> dict[str, Any]:
    """Write the job and the provenance; what is true of the whole run stays as its first session wrote it."""
    fields = job.fingerprint_fields(fixed.precision)
    weights = job.model.weights
    facts = {
        "name": job.config.name,
        "task": job.config.task,
        "state": "running",
        "began": before["began"] if before else now(),
        "fingerprint": fingerprint(fields),
        "fingerprint_fields": fields,
        "model": {"name": job.config.model.name, "weights": weights.source, "sha256": weights.sha256},
        "styles": [asdict(style) for style in job.styles],
        "variants": list(job.variants.names),
        "source_root": job.source.root,
        "fixed": fixed.as_dict(),
        "sessions": [*(before["sessions"] if before else []), {"began": now(), "versions": versions()}],
    }
    write_run(job.store, facts)
    job.store.replace(JOB, job_yaml.encode())
    return facts


def _drive(job: PreparedJob, fixed: Fixed, facts: dict[str, Any], epoch: int, console: Console) -> Outcome:
    began = time.monotonic()
    committed = committed_units(job.store, ROUND)
    resources = _resources(job.config, fixed)
    check_room(resources)
    feed = UnitFeed(job.plan(), job.source, committed)
    log = EventLog(job.store, epoch)
    monitor = Monitor(log, display(console, job.config.name))
    driver = Driver(
        store=job.store,
        setup=_setup(job, fixed),
        weights=job.model.weights.read(),
        resources=resources,
        feed=feed,
        listener=monitor,
    )
    exit_code, counts = 4, None
    try:
        with stop_on_signals() as stop:
            driver.run(stop)
        counts = write_manifest(job.store)
        over = counts.failed > job.config.max_failed * counts.outputs
        exit_code = 3 if over else 0
        return Outcome(counts, exit_code, time.monotonic() - began)
    except SourceError as error:
        if not feed.outputs:
            raise
        raise RunStopped(str(error), 4) from None  # what was listed before goes on once the source is mended
    except PixgradError as error:
        exit_code = error.exit_code
        raise
    finally:
        monitor.close()
        _end(job, facts, exit_code, counts)


def _end(job: PreparedJob, facts: dict[str, Any], exit_code: int, counts: Counts | None) -> None:
    """Write how the session ended, and the counts if the run is complete."""
    session = {**facts["sessions"][-1], "ended": now(), "exit_code": exit_code}
    summary = {"state": "complete", "counts": asdict(counts)} if counts else {"state": "unfinished"}
    try:
        write_run(job.store, {**facts, **summary, "sessions": [*facts["sessions"][:-1], session]})
    except StorageError:
        if counts:
            raise  # otherwise the reason why the run stopped says more


def _setup(job: PreparedJob, fixed: Fixed) -> WorkerSetup:
    return WorkerSetup(
        task=job.config.task,
        params=job.config.section,
        model=job.config.model,
        min_side=job.min_side,
        categories=job.model.description.categories,
        allow_code=job.allow_code,
        images=job.config.images,
        source_root=job.source.root,
        source_columns=job.source.columns,
        output=job.store.url,
        seed=job.config.seed,
        device=fixed.device.device,
        precision=fixed.precision,
        threads=fixed.cpus,
        batch=fixed.batch,
        styles=job.styles,
        guides=job.guides,
    )


def _resources(config: JobConfig, fixed: Fixed) -> Resources:
    workers = config.workers
    return Resources(
        cpus=fixed.cpus,
        gpus=fixed.gpus,
        depth=_depth(config),
        min_workers=workers.min,
        max_workers=None if workers.max == "auto" else workers.max,
    )


def _depth(config: JobConfig) -> int:
    """Attempts on a worker at a time: three, unless their decoded images (3 bytes a pixel, say 2:1) are too large."""
    height, width = config.images.frame or (config.images.short_side or 0, 2 * (config.images.short_side or 0))
    return max(1, min(3, IN_FLIGHT_BYTES // (3 * height * width * config.units.size)))
