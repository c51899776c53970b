"""One unit's parts, over all rounds, against the plan; and the shards that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import pyarrow as pa

from pipeline.commit import PartId
from pipeline.plan import Unit
from pipeline.seal import DamagedError, read_sealed
from pipeline.shard_check import Row, check_shard, key_of_member, unit_of_shard
from workers.records import Output, output_seed, row_schema
from workers.storage import MissingError, Store

_COLUMNS = (
    *("key", "uri", "member", "variant", "unit", "round", "status", "error_code", "error"),
    *("shard", "shard_member", "shard_sha256", "output_sha256", "seed"),
)
_FIELDS = pa.schema([column for column in row_schema("style") if column.name in _COLUMNS])
"""These columns are the same for every task."""


@dataclass
class UnitFindings:
    """The latest row of each planned output that has one, by key; shards named, and those missing; what is wrong."""

    latest: dict[str, Row] = field(default_factory=dict)
    shards: int = 0
    missing_shards: int = 0
    faults: list[str] = field(default_factory=list)


def check_unit(store: Store, unit: Unit, rounds: Sequence[int], *, schema: int, run_seed: int) -> UnitFindings:
    """Check the parts that a unit has in these rounds, which are in order, and every shard that an ok row names.

    `schema` is the version of the rows that the run was begun with. Raises StorageError.
    """
    found = UnitFindings()
    ok = [row for row in _check_parts(store, unit, rounds, schema, run_seed, found) if _names_own_file(unit.id, row)]
    for shard, rows in groupby(sorted(ok, key=itemgetter("shard")), key=itemgetter("shard")):
        found.shards += 1
        try:
            found.faults += check_shard(store, shard, list(rows))
        except MissingError:
            found.missing_shards += 1
            found.faults.append(f"{shard} is missing")
    return found


def _check_parts(
    store: Store, unit: Unit, rounds: Sequence[int], schema: int, run_seed: int, found: UnitFindings
) -> Iterator[Row]:
    """The ok rows of the unit. What comes after a part that can't be read means nothing without it."""
    planned = {output.key: output for output in unit.outputs}
    if len(planned) < len(unit.outputs):
        found.faults.append("the plan has an output twice in it")
    if rounds[0] != 0:
        found.faults.append(f"it has a part in round {rounds[0]} and none in round 0")
        return
    for round in rounds:
        try:
            rows = _read_rows(store, PartId(round, unit.id), schema)
        except (DamagedError, MissingError) as error:
            found.faults.append(str(error))
            return
        found.faults += _row_faults(unit.id, round, rows, planned, found.latest, run_seed)
        found.latest |= {row["key"]: row for row in rows if row["key"] in planned}
        yield from (row for row in rows if row["status"] == "ok")


def _read_rows(store: Store, part: PartId, schema: int) -> Sequence[Row]:
    table = read_sealed(store, part.name, _COLUMNS)
    version = (table.schema.metadata or {}).get(b"pixgrad_schema", b"none").decode()
    if version != str(schema) or not table.schema.equals(_FIELDS):
        raise DamagedError(f"the rows of {part.name} have another schema ({version}) than run.json says ({schema})")
    return table.to_pylist()


def _row_faults(
    unit: int, round: int, rows: Sequence[Row], planned: Mapping[str, Output], earlier: Mapping[str, Row], run_seed: int
) -> Iterator[str]:
    keys = {row["key"] for row in rows}
    if len(keys) < len(rows):
        yield f"{len(rows) - len(keys)} of its {len(rows)} rows of round {round} are of an output that has another"
    if round == 0 and (missing := [key for key in planned if key not in keys]):
        yield f"{len(missing)} of its {len(planned)} outputs have no row, the first is {missing[0]}"
    for sentence, is_broken_by in _rules(unit, round, planned, earlier, run_seed).items():
        if broken := [row["key"] for row in rows if is_broken_by(row)]:
            yield f"{len(broken)} of its {len(rows)} rows of round {round} {sentence}, the first is of {broken[0]}"


def _rules(
    unit: int, round: int, planned: Mapping[str, Output], earlier: Mapping[str, Row], run_seed: int
) -> dict[str, Callable[[Row], bool]]:
    return {
        "are of outputs that were not planned for it": lambda row: row["key"] not in planned,
        "are of outputs that had not failed before": lambda row: round > 0 and not _failed(earlier.get(row["key"])),
        "say that they are of another unit or round": lambda row: (row["unit"], row["round"]) != (unit, round),
        "name another image or variant than their key": lambda row: _is_renamed(row, planned.get(row["key"])),
        "have another seed than the run's gives": lambda row: row["seed"] != output_seed(run_seed, row["key"]),
        "are neither ok nor failed": lambda row: row["status"] not in ("ok", "failed"),
        "are failed and give no reason": lambda row: _failed(row) and not (row["error_code"] and row["error"]),
        "are ok and name no file of their own in a shard of this unit": (
            lambda row: row["status"] == "ok" and not _names_own_file(unit, row)
        ),
    }


def _failed(row: Row | None) -> bool:
    return row is not None and row["status"] == "failed"


def _is_renamed(row: Row, output: Output | None) -> bool:
    names = (row["uri"], row["member"], row["variant"])
    return output is not None and names != (output.image.uri, output.image.member, output.variant.name)


def _names_own_file(unit: int, row: Row) -> bool:
    """Whether the shard's name is that of an attempt at this unit, and the member's that of this output.

    So no two units can name one shard, and no two outputs one member.
    """
    if not (row["shard"] and row["shard_member"] and row["shard_sha256"] and row["output_sha256"]):
        return False
    return unit_of_shard(row["shard"]) == unit and key_of_member(row["shard_member"]) == row["key"]
