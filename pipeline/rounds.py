"""Failed outputs once more, as a new round. What failed follows from the parts alone: nothing else is written down."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pipeline.commit import committed_units
from pipeline.plan import Plan, Unit
from pipeline.seal import read_sealed
from workers.layout import part_name
from workers.storage import Store

Failed = Mapping[int, Collection[str]]
"""Keys of failed outputs by unit."""


@dataclass(frozen=True)
class Round:
    """A round: its number, and the outputs that it has still to try."""

    number: int
    failed: Failed

    @property
    def outputs(self) -> int:
        """How many outputs it has still to try."""
        return sum(map(len, self.failed.values()))


def next_round(store: Store) -> Round:
    """The latest round if it was interrupted, else a new one."""
    failed: dict[int, set[str]] = {}
    number = 0
    while units := committed_units(store, number):
        missing = {unit: keys for unit, keys in failed.items() if unit not in units}
        if number and missing:
            return Round(number, missing)
        for unit in units:
            _apply(store, number, unit, failed)
        number += 1
    return Round(max(1, number), failed)


def _apply(store: Store, round: int, unit: int, failed: dict[int, set[str]]) -> None:
    """Bring `failed` up to date with a part."""
    table = read_sealed(store, part_name(round, unit), ["key", "status"])
    bad = {k for k, s in zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True) if s != "ok"}
    failed.pop(unit, None)
    if bad:
        failed[unit] = bad


class RetryFeed:
    """The units of a round, with their failed outputs only."""

    def __init__(self, plan: Plan, round: Round):
        self._units = self._read(plan, round.failed)
        self.outputs = round.outputs
        self.committed_outputs = 0
        self.listed = True
        self.listing = True
        self.error: BaseException | None = None

    def next(self) -> Unit | None:
        """See `Feed`."""
        unit = next(self._units, None)
        self.listing = unit is not None
        return unit

    def close(self) -> None:
        """Nothing to stop."""

    @staticmethod
    def _read(plan: Plan, failed: Failed) -> Iterator[Unit]:
        for chunk in plan.chunks():
            if not any(unit in failed for unit in range(chunk.first_unit, chunk.first_unit + chunk.units)):
                continue
            for unit in plan.units(chunk):
                if keys := failed.get(unit.id):
                    indices = tuple(i for i, output in enumerate(unit.outputs) if output.key in keys)
                    yield Unit(unit.id, tuple(unit.outputs[i] for i in indices), indices)
