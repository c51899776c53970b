"""A run's promises checked again from its files alone, one unit at a time. No torch, no Ray."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from pipeline.commit import committed_units
from pipeline.plan import Plan, Unit
from pipeline.status import open_run
from pipeline.variants import Grid
from workers.layout import part_name
from workers.records import Variant
from workers.storage import MissingError, StorageError, Store


@dataclass
class Report:
    """What `verify` found. `faults` are sentences that name the unit, `orphans` shards that no row names."""

    units: int = 0
    unfinished: int = 0
    outputs: int = 0
    failed: int = 0
    shards: int = 0
    orphans: int = 0
    faults: list[str] = field(default_factory=list)


def verify(store: Store) -> Report:
    """Check promises 1 and 2 on every committed unit.

    It has exactly the rows planned for it, each output once, and every shard that an ok row names is there, whole, with
    the recorded hashes.

    Raises NoRunError, StorageError.
    """
    run = open_run(store)
    plan = Plan(store, Grid(tuple(map(Variant, run["variants"]))), run["fingerprint_fields"]["units"]["size"])
    committed = committed_units(store, 0)
    report = Report()
    named: set[str] = set()
    for unit in (unit for chunk in plan.chunks() for unit in plan.units(chunk)):
        if unit.id not in committed:
            report.unfinished += 1
            continue
        committed.discard(unit.id)
        report.units += 1
        report.faults += [f"unit {unit.id}: {fault}" for fault in _check_unit(store, unit, report, named)]
    report.faults += [f"unit {unit}: it has a part and is not in the plan" for unit in sorted(committed)]
    report.shards = len(named)
    report.orphans = sum(entry.name not in named for entry in store.list("shards"))
    return report


def _check_unit(store: Store, unit: Unit, report: Report, named: set[str]) -> Iterator[str]:
    try:
        rows = pq.read_table(io.BytesIO(store.read(part_name(0, unit.id)))).to_pylist()
    except (StorageError, OSError, ValueError) as error:
        yield f"its part can't be read ({error})"
        return
    report.outputs += len(rows)
    report.failed += sum(row["status"] != "ok" for row in rows)
    yield from _compare_keys([output.key for output in unit.outputs], [row["key"] for row in rows])
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok":
            by_shard.setdefault(row["shard"], []).append(row)
        elif not (row["error_code"] and row["error"]):
            yield f"the failed row {row['key']} gives no reason"
    for shard, of_shard in by_shard.items():
        if shard in named:
            yield f"{shard} is named by another unit too"
        named.add(shard)
        yield from _check_shard(store, shard, of_shard)


def _compare_keys(planned: Sequence[str], found: Sequence[str]) -> Iterator[str]:
    if len(set(found)) < len(found):
        yield "an output has two rows"
    if missing := set(planned) - set(found):
        yield f"{len(missing)} of its {len(planned)} outputs have no row"
    if surplus := set(found) - set(planned):
        yield f"{len(surplus)} rows are of outputs that were not planned for it"


def _check_shard(store: Store, shard: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    try:
        data = store.read(shard)
    except MissingError:
        yield f"{shard} is missing"
        return
    sha256 = hashlib.sha256(data).hexdigest()
    if any(row["shard_sha256"] != sha256 for row in rows):
        yield f"{shard} has not the content that its rows record"
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            hashes = {m.name: hashlib.sha256(_content(tar, m)).hexdigest() for m in tar}
    except tarfile.TarError as error:
        yield f"{shard} is torn ({error})"
        return
    for row in rows:
        if hashes.get(row["shard_member"]) != row["output_sha256"]:
            yield f"{row['shard_member']} in {shard} is missing or has not the content that its row records"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    return content.read() if content else b""
