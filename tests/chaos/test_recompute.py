"""Sampled outputs made again by somebody who doubts them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.recompute import Recomputation, recompute
from pipeline.seal import seal


def again(job: Any, count: int) -> Recomputation:
    return recompute(job, count, seed=1, scratch=None, console=Console(file=io.StringIO()))


def test_outputs_made_again_are_the_same_and_a_forged_one_is_found(here: Any) -> None:
    source = here.images("source", [f"{i}-{i}" for i in range(9)])
    job = here.job(source, here.folder / "run")
    here.run(job)
    before = {p: p.read_bytes() for p in (here.folder / "run").rglob("*") if p.is_file()}
    found = again(job, 4)
    assert (found.outputs, found.differing, found.elsewhere) == (4, [], "")
    assert {p: p.read_bytes() for p in Path(here.folder / "run").rglob("*") if p.is_file()} == before, "only read"
    (source / "3-3.png").write_bytes((source / "4-4.png").read_bytes())
    forge(here.folder / "run", "5-5.png")
    found = again(job, 99)
    assert found.outputs == 9 and len(found.differing) == 2
    assert any("3-3.png can't be compared: its source image has changed" in sentence for sentence in found.differing)
    assert any("5-5.png came out otherwise, by up to " in sentence for sentence in found.differing)


def forge(run: Path, uri: str) -> None:
    """Put another picture in an output's place, with hashes and seal that agree."""
    for part in (run / "manifest").rglob("*.parquet"):
        table = pq.read_table(part)
        rows = table.to_pylist()
        for row in (row for row in rows if row["uri"] == uri):
            row["shard_member"] = next(r for r in rows if r["uri"] != uri)["shard_member"]
            row["output_sha256"] = next(r for r in rows if r["uri"] != uri)["output_sha256"]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, table.schema), buffer)
        part.write_bytes(seal(buffer.getvalue()))
