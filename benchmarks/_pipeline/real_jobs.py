"""Real jobs on real photographs: against the bare engine, and mixed frames against equal ones."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from rich.console import Console

from benchmarks._pipeline.collections import write_photographs
from benchmarks._pipeline.table import Row
from jobs.spec import dump_job
from pipeline.cluster import cluster
from pipeline.commit import latest_rows
from pipeline.config import JobConfig
from pipeline.prepare import PreparedJob, prepare
from pipeline.run import Fixed, run, worker_setup
from pipeline.status import open_run
from pipeline.verify import verify
from workers.assembly import Item
from workers.codec import decode
from workers.layout import EVENTS
from workers.records import ImageRef, Output, Variant
from workers.setup import WorkerSetup
from workers.storage import open_store

GOAL_JOB = 0.95
GOAL_MIXED = 0.8

EQUAL = [(512, 384)]
MIXED = {(512, 384): 8, (384, 512): 3, (576, 384): 4, (384, 576): 2, (640, 384): 2, (416, 416): 1}
"""Widths and heights of twenty images as people take them: 4:3, 3:2, 5:3 and square, a quarter upright."""


def job_rows(folder: Path, images: int, repeats: int) -> Iterator[Row]:
    """A dream's throughput as a job, over that of its engine alone on the same images, decoded before."""
    write_photographs(folder / "photographs", EQUAL * images)
    stage = {"layers": ["blocks.4"], "octaves": 3, "iterations": 5}
    config = _config(folder / "photographs", stage, units={"size": 4}, images={"short_side": 160})
    with cluster():
        jobs, bare = [], []
        for number in range(repeats):
            output = folder / f"run-{number}"
            jobs.append(_rate(_run(config, output), lambda row: 1))
            bare.append(_bare_rate(config, output))
    share = median(jobs) / median(bare)
    what = f"job of {images} dreams over its bare engine, CPU"
    rates = f"{median(jobs):.2f} images/s of {median(bare):.2f}"
    each = ", ".join(f"{a / b:.2f}" for a, b in zip(jobs, bare, strict=True))
    yield Row(what, f"{share:.2f}: {rates}; one by one {each}", f"{GOAL_JOB}", share >= GOAL_JOB)


def mixed_rows(folder: Path, images: int, repeats: int) -> Iterator[Row]:
    """Pixels a second of a collection of mixed frames over that of one of equal frames, in batches of four."""
    rng = random.Random(0)
    twenty = [size for size, count in MIXED.items() for _ in range(count)]
    sizes = {"equal": EQUAL * images, "mixed": [s for _ in range(images // 20) for s in rng.sample(twenty, 20)]}
    rates: dict[str, list[float]] = {kind: [] for kind in sizes}
    for kind, each in sizes.items():
        write_photographs(folder / kind, each)
    with cluster():
        for number in range(repeats):
            for kind in sizes:
                config = _config(
                    folder / kind,
                    {"layers": ["blocks.5"], "octaves": 2, "iterations": 3},
                    units={"size": 16},
                    images={"short_side": 128},
                    workers={"batch": 4},
                )
                rates[kind].append(_rate(_run(config, folder / f"run-{kind}-{number}"), _pixels))
    equal, mixed = median(rates["equal"]), median(rates["mixed"])
    frames = len({(row["width"], row["height"]) for row in _rows_of(folder / "run-mixed-0")})
    what = f"{images} images of {frames} frames over as many of one, batches of 4"
    measured = f"{mixed / equal:.2f}: {mixed / 1e6:.3f} megapixels/s of {equal / 1e6:.3f}"
    yield Row(what, measured, f"{GOAL_MIXED}", mixed / equal >= GOAL_MIXED)
    yield _verified(folder / "run-equal-0")


def _config(source: Path, stage: dict[str, Any], **more: Any) -> JobConfig:
    values = {"source": str(source), "output": "to be said", "model": {"name": "efficientnet_lite0"}, **more}
    return JobConfig.model_validate({**values, "deepdream": {"stages": [stage]}})


def _run(config: JobConfig, output: Path) -> Path:
    """Run the job in this process's Ray; its output."""
    job = _prepare(config, output)
    outcome = run(job, job_yaml=dump_job(job.config), console=Console(file=io.StringIO()))
    assert outcome.exit_code == 0
    return output


def _prepare(config: JobConfig, output: Path) -> PreparedJob:
    return prepare(config.model_copy(update={"output": str(output)}))


def _rows_of(output: Path) -> list[dict[str, Any]]:
    return [row for table in latest_rows(open_store(str(output))) for row in table.to_pylist()]


def _pixels(row: Mapping[str, Any]) -> int:
    return row["width"] * row["height"]


def _rate(output: Path, measure: Callable[[Mapping[str, Any]], int]) -> float:
    """What a run made a second between its first commit and its last: start-up is not in it."""
    events = [json.loads(line) for line in (output / EVENTS).read_text().splitlines()]
    commits = {e["unit"]: datetime.fromisoformat(e["time"]).timestamp() for e in events if e["event"] == "committed"}
    first = min(commits, key=lambda unit: commits[unit])
    made = sum(measure(row) for row in _rows_of(output) if row["unit"] != first)
    return made / (max(commits.values()) - commits[first])


def _bare_rate(config: JobConfig, output: Path) -> float:
    """Images a second of the engine that the job's worker had, in a process like the worker's."""
    job = _prepare(config, output)
    setup = worker_setup(job, Fixed.from_dict(open_run(job.store)["fixed"]))
    paths = sorted(Path(job.source.root).iterdir())
    loop = ray.remote(num_cpus=setup.threads, max_calls=1)(_loop_in_thread)
    return ray.get(loop.remote(setup, job.model.weights.read(), paths))


def _loop_in_thread(setup: WorkerSetup, weights: NDArray[np.uint8], paths: Sequence[Path]) -> float:
    """As a worker's engine has a thread of its own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_loop, setup, weights, paths).result()


def _loop(setup: WorkerSetup, weights: NDArray[np.uint8], paths: Sequence[Path]) -> float:
    """Images a second of a loop over decoded images, after the first."""
    import torch

    from workers.engine import build_engine

    torch.set_num_threads(setup.threads)
    engine = build_engine(setup, weights)
    items = [
        Item(Output(ImageRef(path.name), Variant("")), decode(path.read_bytes(), setup.images), seed)
        for seed, path in enumerate(paths)
    ]
    engine.run(items[:1], _nothing)
    began = time.perf_counter()
    for item in items:
        engine.run([item], _nothing)
    return len(items) / (time.perf_counter() - began)


def _nothing() -> None:
    pass


def _verified(output: Path) -> Row:
    """How fast a run's files are checked."""
    store = open_store(str(output))
    began = time.perf_counter()
    report = verify(store)
    seconds = time.perf_counter() - began
    assert not report.faults, report.faults
    size = sum(entry.size for entry in store.list("shards"))
    each = f"{1000 * seconds / report.units:.1f} ms a unit of {report.outputs // report.units} outputs"
    return Row("pixgrad verify", f"{each}, {size / seconds / 1e6:.0f} MB/s of shards")
