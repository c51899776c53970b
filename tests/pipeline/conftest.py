"""Run folders made without Ray or torch, of the pieces that a real run is made of."""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs.spec import dump_job
from pipeline.commit import commit, write_manifest
from pipeline.config import JobConfig
from pipeline.listing import Source
from pipeline.plan import Plan, Unit
from pipeline.provenance import fingerprint, write_run
from pipeline.variants import Grid
from workers.layout import JOB, shard_name
from workers.records import ImageRef, Output, Piece, Variant, encode_rows, failed_row, ok_row, row_identity, row_schema
from workers.shards import shard_writer
from workers.storage import LocalStore

STYLES = ("dots", "waves")


@dataclass(frozen=True)
class Content:
    """What a run is to hold.

    `failures`: error codes by image and style, one for each round in which that output fails; in the next one it is ok,
    if there are so many rounds. `pictures`: other bytes than its usual ones for an output.
    """

    images: int = 9
    unit_size: int = 4
    rounds: int = 1
    seed: int = 7
    failures: Mapping[tuple[int, str], Sequence[str]] = field(default_factory=dict)
    pictures: Mapping[tuple[int, str], bytes] = field(default_factory=dict)
    uri: str = "/photos"


class Numbered(Source):
    """Images 000.jpg, 001.jpg, ..."""

    def __init__(self, count: int):
        super().__init__("/photos", "/photos")
        self.count = count

    def _list(self, after: ImageRef | None) -> Iterator[ImageRef]:
        yield from (ImageRef(f"{number:03d}.jpg", bytes=10) for number in range(self.count))


@pytest.fixture(scope="session")
def make_run() -> Callable[..., LocalStore]:
    """Make a complete run in a folder; the other arguments are those of `Content`."""

    def make(folder: Path, **what: Any) -> LocalStore:
        content, store = Content(**what), LocalStore(folder)
        variants = Grid(tuple(Variant(name, i) for i, name in enumerate(STYLES)))
        plan = Plan(store, variants, content.unit_size)
        for chunk in list(plan.extend(Numbered(content.images))):
            for unit in plan.units(chunk):
                for round in range(content.rounds):
                    _commit_unit(store, content, unit, round)
        job = _job(content)
        store.replace(JOB, dump_job(job).encode())
        write_run(store, _facts(job) | {"state": "complete", "counts": asdict(write_manifest(store))})
        return store

    return make


def _codes(content: Content, output: Output) -> Sequence[str]:
    return content.failures.get((int(output.image.uri[:3]), output.variant.name), ())


def _commit_unit(store: LocalStore, content: Content, unit: Unit, round: int) -> None:
    """Two pieces, where there are outputs for two; in a later round, those of outputs that failed in all before."""
    indices = [i for i, output in enumerate(unit.outputs) if len(_codes(content, output)) >= round]
    middle = len(indices) // 2
    pieces = [_piece(store, content, unit, round, half) for half in (indices[middle:], indices[:middle]) if half]
    if pieces:
        commit(store, round, unit.id, pieces)


def _piece(store: LocalStore, content: Content, unit: Unit, round: int, indices: Sequence[int]) -> Piece:
    rows: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    shard = shard_name(unit.id, secrets.token_hex(8))
    for output in (unit.outputs[i] for i in indices):
        identity = row_identity(output, unit=unit.id, round=round, attempts=1, run_seed=content.seed)
        codes = _codes(content, output)
        if round < len(codes):
            rows.append(failed_row(identity, codes[round], "It could not be done."))
        else:
            data = content.pictures.get((int(output.image.uri[:3]), output.variant.name)) or _picture(output)
            files[output.key] = data
            columns = {"shard": shard, "shard_member": f"{output.key}.png", "seconds": random.random()}
            rows.append(ok_row(identity, columns | {"output_sha256": hashlib.sha256(data).hexdigest()}))
    if files:
        with shard_writer(store, shard) as writer:
            for key, data in files.items():
                writer.add(key, {"png": data, "json": b"{}"})
            sha256 = writer.close()
        rows = [row | {"shard_sha256": sha256} if row["status"] == "ok" else row for row in rows]
    return Piece(tuple(indices), encode_rows(rows, row_schema("style")), {}, {})


def _picture(output: Output) -> bytes:
    return hashlib.shake_256(output.key.encode()).digest(700)


def _job(content: Content) -> JobConfig:
    return JobConfig.model_validate(
        {
            "name": "made",
            "source": content.uri,
            "output": "/runs/made",
            "units": {"size": content.unit_size},
            "seed": content.seed,
            "style": {"styles": [f"/{s}.jpg" for s in STYLES], "content_layers": ["a"], "style_layers": ["b"]},
        }
    )


def _facts(job: JobConfig) -> dict[str, Any]:
    fields = job.fingerprint_fields()
    fields["model"] |= {"weights": "0" * 64, "classes": ["cat", "dog"]}
    fields["style"]["styles"] = [[name, hashlib.sha256(name.encode()).hexdigest()] for name in STYLES]
    fields["precision"] = "fp32"
    return {"fingerprint": fingerprint(fields), "fingerprint_fields": fields, "variants": list(STYLES)}
