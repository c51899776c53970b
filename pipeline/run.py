"""One run of a job, or its continuation: claim the folder, fix what the run fixes, drive the units, sum up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.console import Console

from pipeline.audit import make_audit
from pipeline.cluster import Resources, RunStopped, check_room, cluster, probe
from pipeline.commit import Counts, committed_units, count_outputs, write_manifest
from pipeline.config import JobConfig
from pipeline.driver import Driver
from pipeline.epoch import Tenure, take_over
from pipeline.findings import AuditRecord, read_audit
from pipeline.listing import SourceError
from pipeline.plan import Feed, UnitFeed, planned_units, read_chunks
from pipeline.prepare import PreparedJob
from pipeline.progress.display import Display, display
from pipeline.progress.event_log import EventLog
from pipeline.progress.monitor import Monitor
from pipeline.progress.run_log import logger, run_log
from pipeline.progress.steps import shown_steps
from pipeline.progress.style import Style
from pipeline.progress.tally import Tally
from pipeline.provenance import fingerprint, now, versions, write_run
from pipeline.rounds import RetryFeed, next_round
from pipeline.signals import stop_on_signals
from pipeline.status import open_run
from pipeline.summary import write_summary
from workers.actor import DeviceFacts
from workers.errors import PixgradError
from workers.layout import JOB
from workers.params import AuditParams
from workers.setup import BatchPlan, WorkerSetup
from workers.storage import StorageError, Store

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


class UnfinishedError(PixgradError):
    """The run has to be complete first."""

    exit_code = 4


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    counts: Counts
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class Work:
    """What a session is to do: the outputs of a feed, in a round. The feed begins when the run's facts are written."""

    round: int
    feed: Callable[[], Feed]


def run(
    job: PreparedJob, *, job_yaml: str, console: Console, style: Style = Style.AUTO, extend: bool = False
) -> Outcome:
    """Run a prepared job to its end, or go on with it. `job_yaml` is the resolved job for the run's folder.

    Progress is shown on `console` in a style.

    With `extend`, what was added to the source since it was listed is taken in. An audit that the job asks for is made
    when the run is complete, unless there is one. Raises RunBusyError, OtherJobError,
    RunStopped, StorageError, SourceError and the like; whatever is committed stays.
    """
    job.check_source()

    def first_round() -> Work | None:
        if not extend and _all_committed(job):
            return None
        return Work(0, lambda: UnitFeed(job.plan(), job.source, committed_units(job.store, 0), extend=extend))

    def check_axioms() -> None:
        asked = job.config.audit
        if asked and not read_audit(job.store):
            say = console.print if style not in (Style.JSON, Style.NONE) else logger.info
            say(audit(job, asked, console, style).summary)

    return _session(job, first_round, job_yaml, display(console, job.title, style), check_axioms)


def audit(job: PreparedJob, asked: AuditParams, console: Console, style: Style = Style.AUTO) -> AuditRecord:
    """Check the axioms on a run's own network and a sample of its images; written to the run, too.

    Its steps are shown on `console`. Raises NoRunError, RunStopped, StorageError, OtherJobError.
    """
    job.own_run()
    fixed = Fixed.from_dict(open_run(job.store)["fixed"])
    resources = worker_resources(job.config, fixed)
    setup, weights = worker_setup(job, fixed), job.model.weights
    with stop_on_signals() as stopped, shown_steps(console, style) as tell:
        return make_audit(job.store, job.plan(), setup, weights, resources, asked, tell, stopped)


def retry(job: PreparedJob, *, job_yaml: str, console: Console, style: Style = Style.AUTO) -> Outcome:
    """Try the failed outputs of a complete run again, as a new round, or go on with such a round.

    Raises as `run` does, and UnfinishedError if the run itself isn't complete.
    """

    def next_one() -> Work | None:
        if not _all_committed(job):
            raise UnfinishedError(f"{job.store.url} is unfinished; complete it with `pixgrad run`, then retry.")
        round = next_round(job.store)
        return Work(round.number, lambda: RetryFeed(job.plan(), round)) if round.failed else None

    return _session(job, next_one, job_yaml, display(console, job.title, style))


def _session(
    job: PreparedJob,
    find_work: Callable[[], Work | None],
    job_yaml: str,
    screen: AbstractContextManager[Display],
    then: Callable[[], None] = lambda: None,
) -> Outcome:
    """Claim the run and do the session's work, and then what others needn't wait for, with a log of it."""
    job.own_run()
    tenure = take_over(job.store)
    with run_log(job.store, tenure.claim.epoch):
        logger.info("%s, session %s, %s", job.title, tenure.claim.epoch, versions())
        outcome = _work(job, find_work, tenure, job_yaml, screen)
        then()
        logger.info("ends with exit code %s: %s", outcome.exit_code, outcome.counts)
        return outcome


def _work(
    job: PreparedJob,
    find_work: Callable[[], Work | None],
    tenure: Tenure,
    job_yaml: str,
    screen: AbstractContextManager[Display],
) -> Outcome:
    """Do the work if there is any, sum up, give the run up."""
    began = time.monotonic()
    facts, counts, exit_code = None, None, 1
    try:
        before = job.own_run()  # again: another driver may have begun and ended meanwhile
        work = find_work()
        if work is None:
            assert before is not None, "a fresh run has work"
            if before["state"] == "complete":
                counts = count_outputs(job.store)
            else:  # its driver died between the last commit and its end
                facts, counts = before, _sum_up(job)
        else:
            with screen as shown, _started(shown), stop_on_signals() as stop:
                fixed = Fixed.from_dict(before["fixed"]) if before else fix(job, stop, partial(_tell_of_room, shown))
                facts = _begin(job, fixed, before, job_yaml, work.round)
                logger.info("%s", fixed)
                _drive(job, fixed, work, tenure, stop, shown)
                counts = _sum_up(job)
        exit_code = 3 if counts.failed > job.config.max_failed * counts.outputs else 0
        return Outcome(counts, exit_code, time.monotonic() - began)
    except PixgradError as error:
        exit_code = error.exit_code
        raise
    except KeyboardInterrupt:
        exit_code = 130
        raise RunStopped("Interrupted.", 130) from None
    finally:
        if facts and not tenure.is_superseded():
            _end(job, facts, exit_code, counts)
        tenure.release(exit_code)


@contextmanager
def _started(shown: Display) -> Iterator[None]:
    """Ray, which takes some seconds to start: something should be seen meanwhile."""
    shown.show(Tally(), time.monotonic())
    with cluster():
        yield


def _tell_of_room(shown: Display, sentence: str) -> None:
    shown.tell("no_room", {"sentence": sentence})


def _sum_up(job: PreparedJob) -> Counts:
    """Write what is derived from the parts, and count them."""
    counts = write_manifest(job.store)
    if job.config.task == "attribution":
        write_summary(job.store, job.variants.names[0])
    return counts


def _all_committed(job: PreparedJob) -> bool:
    chunks = read_chunks(job.store)
    return bool(chunks) and chunks[-1].final and len(committed_units(job.store, 0)) == planned_units(chunks)


def fix(
    job: PreparedJob, stop: threading.Event | None = None, say: Callable[[str], None] = lambda sentence: None
) -> Fixed:
    """Settle what `auto` stands for, on the cluster as it is now. What it waits for is said. Raises RunStopped."""
    workers = job.config.workers
    asked = None if workers.gpus == "auto" else workers.gpus
    facts, gpus, cpus = probe(asked, workers.wait, stop, say)
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


def _begin(job: PreparedJob, fixed: Fixed, before: dict[str, Any] | None, job_yaml: str, round: int) -> dict[str, Any]:
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
        "axioms_asked": job.config.audit is not None,
        "sessions": [*(before["sessions"] if before else []), {"began": now(), "round": round, "versions": versions()}],
    }
    job.store.replace(JOB, job_yaml.encode())
    write_run(job.store, facts)
    return facts


def _drive(
    job: PreparedJob,
    fixed: Fixed,
    work: Work,
    tenure: Tenure,
    stop: threading.Event,
    shown: Display,
) -> None:
    """Do the work. Raises what `Driver.run` raises."""
    resources = worker_resources(job.config, fixed)
    check_room(resources)
    feed = work.feed()
    monitor = Monitor(EventLog(job.store, tenure.claim.epoch), shown, fixed.gpus)
    try:
        driver = Driver(
            store=job.store,
            setup=worker_setup(job, fixed),
            weights=job.model.weights.read(),
            resources=resources,
            feed=feed,
            listener=monitor,
            round=work.round,
        )
        driver.run(stop, tenure.superseded)
    except SourceError as error:
        if not feed.outputs:
            raise
        raise RunStopped(str(error), 4) from None  # goes on once the source is mended
    finally:
        feed.close()
        monitor.close()


def drive_elsewhere(
    job: PreparedJob, fixed: Fixed, store: Store, feed: Feed, monitor: Monitor, resources: Resources
) -> None:
    """Make a feed's outputs as the run's workers would, but in another store. Raises as `run` does."""
    check_room(resources)
    with stop_on_signals() as stop:
        try:
            driver = Driver(
                store=store,
                setup=worker_setup(job, fixed, output=store.url),
                weights=job.model.weights.read(),
                resources=resources,
                feed=feed,
                listener=monitor,
            )
            driver.run(stop)
        finally:
            monitor.close()


def _end(job: PreparedJob, facts: dict[str, Any], exit_code: int, counts: Counts | None) -> None:
    """Write how the session ended, and the counts if the run is complete."""
    session = {**facts["sessions"][-1], "ended": now(), "exit_code": exit_code}
    summary = {"state": "complete", "counts": asdict(counts)} if counts else {"state": "unfinished"}
    try:
        write_run(job.store, {**facts, **summary, "sessions": [*facts["sessions"][:-1], session]})
    except StorageError:
        if counts:
            raise  # otherwise the reason why the run stopped says more


def worker_setup(job: PreparedJob, fixed: Fixed, output: str | None = None) -> WorkerSetup:
    """What the workers of a run are told; they write to `output`, None for the run's own."""
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
        output=output or job.store.url,
        seed=job.config.seed,
        device=fixed.device.device,
        precision=fixed.precision,
        threads=fixed.cpus,
        batch=fixed.batch,
        styles=job.styles,
        guides=job.guides,
        baselines=job.baselines,
    )


def worker_resources(config: JobConfig, fixed: Fixed) -> Resources:
    """What the workers of a run take, and how many there may be."""
    workers = config.workers
    return Resources(
        cpus=fixed.cpus,
        gpus=fixed.gpus,
        depth=_depth(config),
        min_workers=workers.min,
        max_workers=None if workers.max == "auto" else workers.max,
        timeout=workers.timeout,
        wait=workers.wait,
    )


def _depth(config: JobConfig) -> int:
    """Attempts on a worker at a time: three, unless their decoded images (3 bytes a pixel, say 2:1) are too large."""
    height, width = config.images.frame or (config.images.short_side or 0, 2 * (config.images.short_side or 0))
    return max(1, min(3, IN_FLIGHT_BYTES // (3 * height * width * config.units.size)))
