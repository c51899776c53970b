"""A run's promises checked again from its files alone, one unit at a time. No torch, no Ray."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.commit import Counts, part_of
from pipeline.job_check import RunFacts, check_job, read_run_facts
from pipeline.plan import Unit
from pipeline.plan_check import readable_units
from pipeline.provenance import fingerprint
from pipeline.seal import DamagedError
from pipeline.shard_check import Row, unit_of_shard
from pipeline.unit_check import check_unit
from workers.storage import Store


@dataclass
class Report:
    """What `verify` found.

    `units` have their parts, `unfinished` ones have none; `outputs` have a row, `failed` of them a failed one as their
    latest; `shards` are named by rows, `orphans` by none, among them those that a run at work hasn't committed yet.
    `faults` are sentences, beginning with the unit where there is one. For `root` see `verify`; it is empty if run.json
    can't be read, without which nothing else can be checked.
    """

    units: int = 0
    unfinished: int = 0
    outputs: int = 0
    failed: int = 0
    rounds: int = 0
    shards: int = 0
    orphans: int = 0
    root: str = ""
    faults: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people, without the faults themselves."""
        if not self.root:
            return ["Nothing else can be checked."]
        checked = (
            f"{self.units} units with {self.outputs} outputs ({self.failed} failed), {self.rounds} rounds and "
            f"{self.shards} shards checked; {self.unfinished} units unfinished, {self.orphans} orphans, "
            f"{len(self.faults)} faults."
        )
        return [checked, f"root {self.root}"]


def verify(store: Store) -> Report:
    """Check a run from its files: promises 1, 2 and 6, and that nothing else lies among its parts and its plan.

    `root` is one hash that two people can compare: equal if their runs were asked for the same outputs in the same
    order, with the same job, and have the same content. It is the SHA-256 of texts, each in UTF-8 behind its length in
    bytes (8 bytes, big endian): first the fingerprint of the run's `fingerprint_fields` without `source` and `units`,
    then for every planned output, in the order of the plan, its key, the status of its latest row ("" if it has none)
    and the `output_sha256` of that row if it is ok, its `error_code` if not. So neither the place of the source nor the
    cut into units enters, nor attempts, shards, rounds, machines and times, nor the columns of rows beside these.

    Memory is bounded by a unit, a chunk of the plan and the list of parts. A run at work can be verified: what is
    committed meanwhile is not looked at. Raises NoRunError, StorageError.
    """
    try:
        facts = read_run_facts(store)
    except DamagedError as error:
        return Report(faults=[str(error)])
    return _Verification(store, facts).report()


class _Verification:
    def __init__(self, store: Store, facts: RunFacts):
        self._store = store
        self._facts = facts
        self._report = Report()
        self._failures: Counter[str] = Counter()
        self._root = _Root(fingerprint({k: v for k, v in facts.fields.items() if k not in ("source", "units")}))

    def report(self) -> Report:
        report, store = self._report, self._store
        report.faults += check_job(store, self._facts)
        parts = self._list_parts()  # before the plan: what is committed was planned before
        report.rounds = len(parts)
        parts_listed = sum(map(len, parts.values()))
        for unit in readable_units(store, self._facts, self._fault):
            rounds = [round for round, units in parts.items() if unit.id in units]
            for round in rounds:
                parts[round].discard(unit.id)
            self._check_unit(unit, rounds)
        for unit, round in sorted((unit, round) for round, units in parts.items() for unit in units):
            self._fault(f"unit {unit}: it has a part in round {round} and is in no chunk of the plan that can be read")
        report.orphans += sum(unit_of_shard(e.name) is not None for e in store.list("shards")) - report.shards
        self._check_counts(parts_listed)
        report.root = self._root.hexdigest()
        return report

    def _fault(self, sentence: str) -> None:
        self._report.faults.append(sentence)

    def _list_parts(self) -> dict[int, set[int]]:
        """Units by round, rounds in order."""
        parts: dict[int, set[int]] = {}
        for entry in self._store.list("manifest"):
            if part := part_of(entry.name):
                parts.setdefault(part.round, set()).add(part.unit)
            else:
                self._fault(f"{entry.name} is not the part of a unit; remove it, or readers take it for one")
        return dict(sorted(parts.items()))

    # -- units ----------------------------------------------------------------------------------------------------

    def _check_unit(self, unit: Unit, rounds: list[int]) -> None:
        report, latest = self._report, {}
        if rounds:
            found = check_unit(self._store, unit, rounds, schema=self._facts.version, run_seed=self._facts.seed)
            report.faults += [f"unit {unit.id}: {fault}" for fault in found.faults]
            report.shards += found.shards
            report.orphans += found.missing_shards
            latest = found.latest
        elif self._facts.complete:
            self._fault(f"unit {unit.id}: it has no part, and run.json says that the run is complete")
        report.units += 0 in rounds
        report.unfinished += 0 not in rounds
        self._count(unit, latest)

    def _count(self, unit: Unit, latest: Mapping[str, Row]) -> None:
        self._report.outputs += len(latest)
        for output in unit.outputs:
            row = latest.get(output.key)
            if row is None:
                self._root.add(output.key, "", "")
            elif row["status"] == "ok":
                self._root.add(output.key, "ok", row["output_sha256"] or "")
            else:
                code = row["error_code"] or ""
                self._root.add(output.key, row["status"], code)
                self._report.failed += 1
                self._failures[code] += 1

    def _check_counts(self, parts: int) -> None:
        """In later rounds not every unit has a part, so that a lost one may show in the counts alone."""
        found = Counts(self._report.outputs - self._report.failed, dict(sorted(self._failures.items())), parts)
        said = self._facts.counts
        if self._facts.complete and said and said != found:
            self._fault(f"run.json counts {_in_words(said)}; there are {_in_words(found)}")


class _Root:
    """The hash over a run; see `verify`."""

    def __init__(self, job: str):
        self._sha256 = hashlib.sha256()
        self.add(job)

    def add(self, *texts: str) -> None:
        for data in (text.encode() for text in texts):
            self._sha256.update(len(data).to_bytes(8, "big") + data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _in_words(counts: Counts) -> str:
    failures = ", ".join(f"{count} {code}" for code, count in counts.failures.items())
    return f"{counts.parts} parts with {counts.ok} ok outputs and {counts.failed} failed ones ({failures or 'none'})"
