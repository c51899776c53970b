"""How far a run is, from its files alone. No torch, no Ray."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import Any

from pipeline.commit import Counts, committed_units, count_outputs
from pipeline.epoch import Claim, is_alive, latest_claim
from pipeline.findings import AuditRecord, read_audit
from pipeline.plan import planned_units, read_chunks
from pipeline.progress.words import by_reason, duration
from pipeline.provenance import read_run
from pipeline.summary import read_summary, summary_lines
from workers.errors import PixgradError
from workers.layout import HIDDEN_RUN, RUN
from workers.storage import Store


class NoRunError(PixgradError):
    """The folder holds no run."""


@dataclass(frozen=True)
class Standing:
    """What can be told of a run without opening its parts."""

    run: dict[str, Any]
    units: int
    committed: int
    images: int
    listed: bool
    claim: Claim | None
    summary: dict[str, Any] | None
    audit: AuditRecord | None
    place: str

    @property
    def title(self) -> str:
        """What the run is."""
        return f"{self.run['name']}: {self.run['task']} with {self.run['model']['name']}"

    @property
    def alive(self) -> bool:
        """Whether a driver is at work, as far as can be told from here."""
        return self.claim is not None and is_alive(self.claim)

    @property
    def complete(self) -> bool:
        """Whether all that is asked for is committed."""
        return self.listed and self.committed == self.units

    @property
    def axioms_unchecked(self) -> str | None:
        """What to say of a complete run whose axioms were to be checked and aren't."""
        if not self.complete or self.audit or not self.run.get("axioms_asked"):
            return None
        return f"not checked yet; {shlex.join(['pixgrad', 'audit', self.place])}"

    @property
    def exit_code(self) -> int:
        """What the last session exited with, if it lived to say so; else 0 for a complete run and 4 for another."""
        if self.claim and self.claim.exit_code is not None:
            return self.claim.exit_code
        return 0 if self.complete else 4

    @property
    def state(self) -> str:
        """In a few words."""
        if self.claim and self.alive:
            seen = duration(max(0.0, time.time() - self.claim.seen))
            return f"running (process {self.claim.pid} on {self.claim.host}, last sign of life {seen} ago)"
        if self.complete:
            return "complete"
        return "unfinished; the same `pixgrad run` goes on with it"


@dataclass(frozen=True)
class Status(Standing):
    """What the files of a run say."""

    outputs: int
    failures: dict[str, int]

    def lines(self) -> list[str]:
        """For people."""
        plus = "" if self.listed else "+ (still being listed)"
        failed = f", {sum(self.failures.values()):,} failed: {by_reason(self.failures)}" if self.failures else ""
        return [
            f"{self.title}, {self.state}",
            f"units    {self.committed:,} of {self.units:,}{plus} committed",
            f"outputs  {self.outputs:,} committed{failed}",
            f"images   {self.images:,}{plus}",
            *(summary_lines(self.summary) if self.summary else ()),
            *([f"Axioms: {self.axioms_unchecked}"] if self.axioms_unchecked else ()),
            *([self.audit.summary] if self.audit else ()),
        ]


def read_status(store: Store, counts: Counts | None = None) -> Status:
    """The status of the run in `store`, which takes a moment for each thousand parts. Raises NoRunError.

    `counts` of its latest rows if they are known.
    """
    standing = read_standing(store)
    counts = counts or count_outputs(store)
    return Status(**vars(standing), outputs=counts.outputs, failures=counts.failures)


def read_standing(store: Store) -> Standing:
    """How far the run in `store` is, from listings alone. Raises NoRunError."""
    run = open_run(store)
    chunks = read_chunks(store)
    return Standing(
        run=run,
        units=planned_units(chunks),
        committed=len(committed_units(store, 0)),
        images=sum(chunk.images for chunk in chunks),
        listed=bool(chunks) and chunks[-1].final,
        claim=latest_claim(store),
        summary=read_summary(store),
        audit=read_audit(store),
        place=store.url,
    )


def open_run(store: Store) -> dict[str, Any]:
    """The `run.json` of a run. Raises NoRunError."""
    run = read_run(store)
    if run is None:
        mend = "give the folder that a job names as output"
        if store.exists(f"{HIDDEN_RUN}/{RUN}"):
            mend = f"that of its pictures is {store.url}/{HIDDEN_RUN}"
        raise NoRunError(f"{store.url} holds no run (there is no run.json); {mend}.")
    return run
