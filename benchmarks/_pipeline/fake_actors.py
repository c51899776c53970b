"""Workers that compute nothing: whatever a unit costs beside them is the driver's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray

from benchmarks._pipeline.collections import UNIT
from workers.actor import CONCURRENT_ATTEMPTS, Birth
from workers.assembly import Pulse
from workers.params import DeepDreamParams, ImageParams, ModelParams
from workers.recorder import Recorder
from workers.records import Acked, Attempt, Event, Piece, Started, encode_rows, ok_row, row_identity, row_schema
from workers.setup import BatchPlan, WorkerSetup


class FakeActor:
    """Answers every attempt at once, with one acknowledgement and the rows of the first attempt it had."""

    def __init__(self, setup: WorkerSetup, pictures: object = None):
        self._setup = setup
        self._recorder = Recorder()
        self._part: bytes | None = None
        self._ticks = 0

    def start(self, weights: Any) -> Birth:
        """Nothing to build."""
        return Birth(ray.get_runtime_context().get_node_id(), str(self._recorder.folder))

    def process(self, attempt: Attempt) -> Iterator[Event]:
        """What the driver hears of an attempt; the rows are encoded once, which is a worker's time and not its own."""
        yield Started()
        self._part = self._part or encode_rows(rows_of(attempt, self._setup.seed), row_schema(self._setup.task))
        yield Acked(attempt.indices)
        self._ticks += len(attempt.indices)
        yield Piece(attempt.indices, self._part, {}, {"decode": 1e-3, "compute": 1e-3, "encode": 1e-3})

    def pulse(self) -> Pulse:
        """Alive."""
        return Pulse(self._ticks, None)


def fake_actor() -> Any:
    """The class for Ray, with the limits of the real one."""
    final = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=CONCURRENT_ATTEMPTS + 1)  # pyright: ignore
    return final(FakeActor)


def rows_of(attempt: Attempt, run_seed: int) -> list[dict[str, Any]]:
    """Rows as long as those of a real dream."""
    fields = {
        "source_width": 1024,
        "source_height": 768,
        "width": 320,
        "height": 256,
        "transform": [3.0, 0.0, 32.0, 0.0, 3.0, 0.0],
        "shard": f"shards/{attempt.unit:09d}-{attempt.id}.tar",
        "batch_shape": "8x3x256x320",
        "seconds": 0.5,
        "objective_first": 0.125,
        "objective_last": 8.25,
        "iterations": 40,
    }
    rows = []
    for output, tries in zip(attempt.outputs, attempt.tries, strict=True):
        identity = row_identity(output, unit=attempt.unit, round=attempt.round, attempts=tries, run_seed=run_seed)
        hashes = dict.fromkeys(("source_sha256", "shard_sha256", "output_sha256"), 2 * output.key)
        rows.append(ok_row(identity, {**fields, **hashes, "shard_member": f"{output.key}.png"}))
    return rows


def worker_setup(output: str, threads: int = 1) -> WorkerSetup:
    """What a dream's worker is told."""
    return WorkerSetup(
        task="deepdream",
        params=DeepDreamParams.model_validate({"stages": [{"layers": ["relu4_4"]}]}),
        model=ModelParams(),
        min_side=32,
        categories=None,
        allow_code=False,
        images=ImageParams.model_validate({}),
        source_root="/",
        source_columns=(),
        output=output,
        seed=0,
        device="cpu",
        precision="fp32",
        threads=threads,
        batch=BatchPlan(images=UNIT, pixels=0, most=UNIT),
    )
