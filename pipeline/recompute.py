"""Sampled outputs of a run made again and compared: what a third party would do who doubts it."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from pipeline.cluster import cluster, probe
from pipeline.commit import latest_rows
from pipeline.export import read_samples
from pipeline.prepare import PreparedJob
from pipeline.progress.display import display
from pipeline.progress.event_log import EventLog
from pipeline.progress.monitor import Monitor
from pipeline.provenance import versions
from pipeline.run import Fixed, drive_elsewhere, worker_resources
from pipeline.sample import Row, draw, feed_of
from pipeline.status import open_run
from workers.storage import Store, open_store

COMPARED = ("uri", "variant", "unit", "batch_shape", "source_sha256", "shard", "shard_member", "output_sha256")


@dataclass(frozen=True)
class Recomputation:
    """Outputs made again. `differing`: a sentence for each that came out otherwise.

    `elsewhere` says in what this machine is unlike the run's, where the last bits may differ without anybody's fault;
    it is empty where they must not.
    """

    outputs: int
    differing: list[str]
    elsewhere: str


def recompute(job: PreparedJob, count: int, *, seed: int, scratch: str | None, console: Console) -> Recomputation:
    """Make `count` ok outputs of a run again, drawn with `seed`, and compare their hashes with the rows'.

    They are written to `scratch`, which every worker must reach (None: a temporary folder of this machine). The run is
    only read. Raises as `pipeline.run.run` does.
    """
    run = open_run(job.store)
    job.own_run()
    fixed = Fixed.from_dict(run["fixed"])
    sample = {row["key"]: row for row in draw(job.store, count, random.Random(seed), COMPARED)}
    place = tempfile.TemporaryDirectory(prefix="pixgrad-recompute-") if scratch is None else nullcontext(scratch)
    with place as folder, cluster():
        store = open_store(folder)
        _make(job, fixed, sample, store, console)
        made = [row for table in latest_rows(store) for row in table.to_pylist()]
        differing = [s for row in made for s in _compare(job.store, sample[row["key"]], store, row)]
        return Recomputation(len(made), differing, _elsewhere(run, fixed))


def _make(job: PreparedJob, fixed: Fixed, sample: dict[str, Row], store: Store, console: Console) -> None:
    feed = feed_of(job.plan(), sample.values())
    with display(console, f"{job.title}, again") as shown:
        monitor = Monitor(EventLog(store, 0), shown, fixed.gpus)
        drive_elsewhere(job, fixed, store, feed, monitor, worker_resources(job.config, fixed))


def _compare(store: Store, before: Row, scratch: Store, again: Row) -> Iterator[str]:
    what = f"unit {before['unit']}: {before['uri']}" + (f" ({before['variant']})" if before["variant"] else "")
    if again["status"] != "ok":
        yield f"{what} failed when it was made again: {again['error']}"
    elif again["source_sha256"] != before["source_sha256"]:
        yield f"{what} can't be compared: its source image has changed since"
    elif again["output_sha256"] != before["output_sha256"]:
        shape = f", in a batch of {again['batch_shape']} where the row says {before['batch_shape']}"
        shape = shape if again["batch_shape"] != before["batch_shape"] else ""
        yield f"{what} came out otherwise, by {_difference(_main(store, before), _main(scratch, again))}{shape}"


def _main(store: Store, row: Row) -> np.ndarray:
    """The picture or map of a row, as floating point numbers."""
    extension = row["shard_member"].partition(".")[2]
    data = next(files[extension] for key, files in read_samples(store, row["shard"]) if key == row["key"])
    array = (
        np.load(io.BytesIO(data), allow_pickle=False)
        if extension == "npy"
        else np.asarray(Image.open(io.BytesIO(data)))
    )
    return array.astype(np.float64)


def _difference(before: np.ndarray, again: np.ndarray) -> str:
    if before.shape != again.shape:
        return f"its size ({again.shape} for {before.shape})"
    if before.ndim == 3:
        return f"up to {np.abs(before - again).max():.0f} grey levels of 255"
    return f"{np.abs(before - again).sum() / np.abs(before).sum():.1e} of the map's L1 norm"


def _elsewhere(run: dict[str, Any], fixed: Fixed) -> str:
    """In what this machine is unlike the one that the run was made on, as far as results depend on it."""
    here = probe(fixed.gpus)[0]
    now, then = versions(), run["sessions"][-1]["versions"]
    packages = [name for name in ("torch", "torchvision", "numpy", "pillow") if then.get(name) != now[name]]
    unlike = [f"{name} {then.get(name)} then, {now[name]} now" for name in packages]
    if (here.device, here.name) != (fixed.device.device, fixed.device.name):
        unlike.append(f"{fixed.device.name} then, {here.name} now")
    return "; ".join(unlike)
