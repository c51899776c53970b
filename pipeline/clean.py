"""Removes what a run left behind and no row names. No torch, no Ray."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from pipeline.commit import PartId, list_parts
from pipeline.epoch import RunBusyError, Tenure, take_over
from pipeline.job_check import RunFacts, read_run_facts
from pipeline.seal import DamagedError, read_sealed
from pipeline.shard_check import unit_of_shard
from workers.storage import Entry, LocalStore, Store, encode

_STAGED = re.compile(r"\.[0-9a-f]{16}\.staged")
_FOLDERS = (".", "plan", "shards", "manifest/round=*", "drivers")


@dataclass(frozen=True)
class Cleaned:
    """What was removed, or would be: shards that no row names, and leftovers of writes that were cut short."""

    orphans: list[Entry]
    leftovers: list[Entry]

    @property
    def bytes(self) -> int:
        """The size of it all."""
        return sum(entry.size for entry in [*self.orphans, *self.leftovers])


def clean(store: Store, *, dry_run: bool = False) -> Cleaned:
    """Remove a run's orphans and leftovers, holding its claim; with `dry_run`, only find them.

    An orphan is a shard that no row of any part of any round names. Leftovers, which only a local store has, are files
    of a write that began before the claim. Nothing is removed unless every part is there and can be read.

    Raises NoRunError, RunBusyError while a driver is at work or once one has taken over, DamagedError, StorageError.
    """
    facts = read_run_facts(store)
    tenure = take_over(store)
    exit_code = 1
    try:
        cleaned = Cleaned(_orphans(store, facts), list(_leftovers(store, tenure.claim.started)))
        if not dry_run:
            _remove(store, [*cleaned.orphans, *cleaned.leftovers], tenure)
        exit_code = 0
        return cleaned
    finally:
        tenure.release(exit_code)


def _orphans(store: Store, facts: RunFacts) -> list[Entry]:
    shards = {e.name: e for e in store.list("shards") if unit_of_shard(e.name) is not None}  # before the parts are read
    parts = list_parts(store)
    if facts.complete and facts.counts and len(parts) != facts.counts.parts:
        raise DamagedError(
            f"{store.url} has {len(parts)} of the {facts.counts.parts} parts that run.json counts, and nobody knows "
            f"what the others name; `pixgrad verify` says more."
        )
    for part in parts:
        for shard in _named_shards(store, part):
            shards.pop(shard, None)
    return list(shards.values())


def _named_shards(store: Store, part: PartId) -> list[str]:
    rows = read_sealed(store, part.name, ["unit", "round", "shard"])
    if any((row["unit"], row["round"]) != (part.unit, part.round) for row in rows.to_pylist()):
        raise DamagedError(f"{store.url}/{part.name} has rows of another part; restore it from a copy.")
    return rows.column("shard").drop_null().unique().to_pylist()


def _leftovers(store: Store, before: float) -> Iterator[Entry]:
    if not isinstance(store, LocalStore):
        return
    for path in chain.from_iterable(store.root.glob(f"{folder}/.*.staged") for folder in _FOLDERS):
        with suppress(FileNotFoundError):  # a heartbeat's, which is done
            status = path.lstat()
            if _STAGED.fullmatch(path.name) and stat.S_ISREG(status.st_mode) and status.st_mtime < before:
                yield Entry(encode(str(path.relative_to(store.root))), status.st_size)


def _remove(store: Store, entries: list[Entry], tenure: Tenure) -> None:
    for entry in entries:
        if tenure.is_superseded():
            raise RunBusyError(f"A driver has taken over {store.url}; clean it again when that has ended.")
        store.delete(entry.name)
