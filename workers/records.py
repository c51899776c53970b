"""What travels between driver and worker, and the rows a run leaves behind. No torch."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1

Task = Literal["deepdream", "style", "attribution"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of a source: where it lies, what it is called, and what came with it.

    `uri` is relative to the source (percent-encoded) or absolute; `member` names it inside a container. `offset` and
    `bytes` give the place of a member in an uncompressed tar; otherwise `offset` is None and `bytes` the file's size,
    or None where the listing doesn't know it. `columns` are the other columns of a table.
    """

    uri: str
    member: str | None = None
    offset: int | None = None
    bytes: int | None = None
    label: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several outputs asked for per image: a style, or a target class. The name is "" where there is one only.

    `value` says which: the index of a style, or a class given by the job (index, name), a rank ("top:2"),
    or two of these ("contrast:predicted:207").
    """

    name: str
    value: int | str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One output asked for: an image and a variant."""

    image: ImageRef
    variant: Variant

    @property
    def key(self) -> str:
        """See `output_key`."""
        return output_key(self.image.uri, self.image.member, self.variant.name)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at outputs of a unit: `indices` are their positions in the unit, `outputs` the outputs in that order.

    `tries[i]` counts the attempts at `outputs[i]`, this one included. `id` is random and part of the shard's name.
    """

    id: str
    unit: int
    round: int
    indices: tuple[int, ...]
    outputs: tuple[Output, ...]
    tries: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as plain tuples: Ray's pickler calls back into Python for every object of a class of ours."""
        plain = tuple((_image_fields(output.image), _variant_fields(output.variant)) for output in self.outputs)
        return _attempt_from, (self.id, self.unit, self.round, self.indices, plain, self.tries)


_image_fields = attrgetter(*(field.name for field in fields(ImageRef)))
_variant_fields = attrgetter(*(field.name for field in fields(Variant)))


def _attempt_from(
    id: str,
    unit: int,
    round: int,
    indices: tuple[int, ...],
    plain: Sequence[tuple[Sequence[Any], Sequence[Any]]],
    tries: tuple[int, ...],
) -> Attempt:
    outputs = tuple(Output(ImageRef(*image), Variant(*variant)) for image, variant in plain)
    return Attempt(id, unit, round, indices, outputs, tries)


def output_key(uri: str, member: str | None, variant: str) -> str:
    """The name of an output: a hash of its identity, 32 hexadecimal digits, the same wherever the source is mounted."""
    return _digest(uri, member or "", variant)[:32]


def output_seed(run_seed: int, key: str) -> int:
    """The random seed of one output, from the run's seed and the output's identity: 0 <= seed < 2**63."""
    return int(_digest(str(run_seed), key)[:16], 16) >> 1


def _digest(*parts: str) -> str:
    framed = b"".join(len(data).to_bytes(8, "big") + data for data in (p.encode() for p in parts))
    return hashlib.sha256(framed).hexdigest()


_COMMON = [
    pa.field("key", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("member", pa.string()),
    pa.field("variant", pa.string(), nullable=False),
    pa.field("unit", pa.int64(), nullable=False),
    pa.field("round", pa.int32(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error_code", pa.string()),
    pa.field("error", pa.string()),
    pa.field("label", pa.string()),
    pa.field("source_width", pa.int32()),
    pa.field("source_height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("transform", pa.list_(pa.float64())),
    pa.field("source_sha256", pa.string()),
    pa.field("shard", pa.string()),
    pa.field("shard_member", pa.string()),
    pa.field("shard_sha256", pa.string()),
    pa.field("output_sha256", pa.string()),
    pa.field("seed", pa.int64(), nullable=False),
    pa.field("attempts", pa.int32(), nullable=False),
    pa.field("batch_shape", pa.string()),
    pa.field("seconds", pa.float64()),
]

_OF_TASK: dict[str, list[pa.Field]] = {
    "deepdream": [
        pa.field("objective_first", pa.float64()),
        pa.field("objective_last", pa.float64()),
        pa.field("iterations", pa.int32()),
        pa.field("trace_iterations", pa.list_(pa.int32())),
        pa.field("trace_objective", pa.list_(pa.float32())),
    ],
    "style": [
        pa.field("style_uri", pa.string()),
        pa.field("style_sha256", pa.string()),
        pa.field("content_loss", pa.float64()),
        pa.field("style_loss", pa.float64()),
        pa.field("total_loss", pa.float64()),
        pa.field("iterations", pa.int32()),
        pa.field("trace_iterations", pa.list_(pa.int32())),
        pa.field("trace_loss", pa.list_(pa.float32())),
    ],
    "attribution": [
        pa.field("method", pa.string()),
        pa.field("baseline", pa.string()),
        pa.field("paths", pa.int32()),
        pa.field("target", pa.int32()),
        pa.field("target_name", pa.string()),
        pa.field("target_source", pa.string()),
        pa.field("against", pa.int32()),
        pa.field("against_name", pa.string()),
        pa.field("predicted", pa.int32()),
        pa.field("predicted_name", pa.string()),
        pa.field("predicted_probability", pa.float64()),
        pa.field("probability", pa.float64()),
        pa.field("label_class", pa.int32()),
        pa.field("correct", pa.bool_()),
        pa.field("objective_value", pa.float64()),
        pa.field("baseline_value", pa.float64()),
        pa.field("attribution_sum", pa.float64()),
        pa.field("attribution_l1", pa.float64()),
        pa.field("completeness_delta", pa.float64()),
        pa.field("map_error", pa.float64()),
        pa.field("paths_error", pa.float64()),
        pa.field("evaluations", pa.int32()),
        pa.field("converged", pa.bool_()),
        pa.field("stop_reason", pa.string()),
        pa.field("deletion_auc", pa.float64()),
        pa.field("insertion_auc", pa.float64()),
        pa.field("baseline_distance", pa.float64()),
        pa.field("flags", pa.list_(pa.string())),
        pa.field("heatmap_scale", pa.float64()),
    ],
}


def row_schema(task: Task, source_columns: Sequence[pa.Field] = ()) -> pa.Schema:
    """The schema of a run's rows: the common columns, the task's, then the source table's own."""
    fields = [*_COMMON, *_OF_TASK[task], *source_columns]
    return pa.schema(fields, metadata={"pixgrad_schema": str(SCHEMA_VERSION)})


def reserved_columns(task: Task) -> frozenset[str]:
    """Names that a source table's own columns can't have in the rows."""
    return frozenset(row_schema(task).names)


@dataclass(frozen=True, slots=True)
class Started:
    """The worker has begun the attempt."""


@dataclass(frozen=True, slots=True)
class Acked:
    """Outputs whose work is over, by their indices in the unit."""

    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """An attempt's result: its shard is durable, `part` is a Parquet file with a row for each of its outputs.

    `failures` counts failed rows by error code; `seconds` is the time spent in each stage, summed over its threads.
    """

    indices: tuple[int, ...]
    part: bytes
    failures: Mapping[str, int]
    seconds: Mapping[str, float]


Event = Started | Acked | Piece


def encode_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    """Rows as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def failed_row(identity: Mapping[str, Any], code: str, sentence: str) -> dict[str, Any]:
    """The row of an output that could not be made."""
    return {**identity, "status": "failed", "error_code": code, "error": sentence}


def ok_row(identity: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an output that was made; `fields` are its other columns."""
    return {**identity, "status": "ok", **fields}


def row_identity(output: Output, *, unit: int, round: int, attempts: int, run_seed: int) -> dict[str, Any]:
    """What every row says, whatever became of its output."""
    image = output.image
    return {
        **image.columns,
        "key": output.key,
        "uri": image.uri,
        "member": image.member,
        "variant": output.variant.name,
        "unit": unit,
        "round": round,
        "label": image.label,
        "attempts": attempts,
        "seed": output_seed(run_seed, output.key),
    }
