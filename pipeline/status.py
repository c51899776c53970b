"""How far a run is, from its files alone. No torch, no Ray."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pipeline.commit import committed_units, count_outputs
from pipeline.epoch import Claim, is_alive, latest_claim
from pipeline.plan import planned_units, read_chunks
from pipeline.progress import duration
from pipeline.provenance import read_run
from pipeline.summary import accuracy_line, read_summary
from workers.errors import PixgradError
from workers.storage import Store


class NoRunError(PixgradError):
    """The folder holds no run."""


@dataclass(frozen=True)
class Status:
    """What the files of a run say."""

    run: dict[str, Any]
    units: int
    committed: int
    images: int
    outputs: int
    listed: bool
    failures: dict[str, int]
    claim: Claim | None
    summary: dict[str, Any] | None

    def lines(self) -> list[str]:
        """For people."""
        plus = "" if self.listed else "+ (still being listed)"
        facts = [
            f"{self.run['name']}: {self.run['task']} with {self.run['model']['name']}, {self.state}",
            f"units    {self.committed} of {self.units}{plus} committed",
            f"outputs  {self.outputs} committed, {sum(self.failures.values())} of them failed",
            f"images   {self.images}{plus}",
        ]
        accuracy = accuracy_line(self.summary) if self.summary else None
        return [*facts, *(f"  {count} {code}" for code, count in self.failures.items()), *filter(None, [accuracy])]

    @property
    def state(self) -> str:
        """In a few words."""
        if self.claim and is_alive(self.claim):
            seen = duration(max(0.0, time.time() - self.claim.seen))
            return f"running (process {self.claim.pid} on {self.claim.host}, last sign of life {seen} ago)"
        if self.listed and self.committed == self.units:
            return "complete"
        return "unfinished; the same `pixgrad run` goes on with it"


def read_status(store: Store) -> Status:
    """The status of the run in `store`. Raises NoRunError."""
    run = open_run(store)
    chunks = read_chunks(store)
    counts = count_outputs(store)
    return Status(
        run=run,
        units=planned_units(chunks),
        committed=len(committed_units(store, 0)),
        images=sum(chunk.images for chunk in chunks),
        outputs=counts.outputs,
        listed=bool(chunks) and chunks[-1].final,
        failures=counts.failures,
        claim=latest_claim(store),
        summary=read_summary(store),
    )


def open_run(store: Store) -> dict[str, Any]:
    """The `run.json` of a run. Raises NoRunError."""
    run = read_run(store)
    if run is None:
        raise NoRunError(
            f"{store.url} holds no run (there is no run.json); give the folder that a job names as output."
        )
    return run
