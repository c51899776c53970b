"""A plan read as far as it can be, its chunks one by one, so that a damaged one doesn't hide the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from pipeline.job_check import RunFacts
from pipeline.plan import Chunk, Plan, Unit, read_chunk
from pipeline.seal import DamagedError
from pipeline.variants import Grid
from workers.errors import first_line
from workers.layout import chunk_name
from workers.records import Variant
from workers.storage import Store

_DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError)
"""What reading a chunk raises that isn't what was written."""


def readable_units(store: Store, facts: RunFacts, fault: Callable[[str], None]) -> Iterator[Unit]:
    """The units of every chunk that can be read, in order; `fault` is told about the rest. Raises StorageError."""
    outputs_an_image = len(facts.variants)
    plan = Plan(store, Grid(tuple(map(Variant, facts.variants))), facts.unit_size)
    for chunk in _readable_chunks(store, facts, fault):
        outputs = 0
        try:
            for unit in plan.units(chunk):
                outputs += len(unit.outputs)
                yield unit
        except DamagedError as error:
            fault(str(error))
        except _DAMAGE as error:
            fault(f"{chunk_name(chunk.number)} is damaged ({first_line(error)})")
        else:
            if outputs != chunk.images * outputs_an_image:
                fault(f"{chunk_name(chunk.number)} has {outputs // outputs_an_image} of its {chunk.images} images")


def _readable_chunks(store: Store, facts: RunFacts, fault: Callable[[str], None]) -> Iterator[Chunk]:
    before: Chunk | None = None
    for number in _chunk_numbers(store, fault):
        try:
            chunk = read_chunk(store, chunk_name(number))
            _check_header(chunk, number, before, facts)
        except DamagedError as error:
            fault(str(error))
            before = None
        except _DAMAGE as error:
            fault(f"{chunk_name(number)} is damaged ({first_line(error)})")
            before = None
        else:
            before = chunk
            yield chunk
    if facts.complete and not (before and before.final):
        fault("the plan has no end, and run.json says that the run is complete")


def _chunk_numbers(store: Store, fault: Callable[[str], None]) -> list[int]:
    names = {entry.name for entry in store.list("plan")}
    numbers = {int(stem) for name in names if (stem := name[len("plan/") : -len(".parquet")]).isdecimal()}
    numbers = {number for number in numbers if chunk_name(number) in names}
    for name in sorted(names - {chunk_name(number) for number in numbers}):
        fault(f"{name} is not a chunk of the plan; remove it, or readers take it for one")
    for number in sorted(set(range(max(numbers, default=-1))) - numbers):
        fault(f"{chunk_name(number)} is missing")
    return sorted(numbers)


def _check_header(chunk: Chunk, number: int, before: Chunk | None, facts: RunFacts) -> None:
    """Raise ValueError if the chunk has not the place that its file and the chunk before it give it."""
    units = -(-chunk.images * len(facts.variants) // facts.unit_size)
    if (chunk.number, chunk.units) != (number, units):
        raise ValueError("its header is that of another chunk")
    place = (chunk.first_image, chunk.first_unit, chunk.extension)
    if number > 0 and not (before and before.number + 1 == number):
        return  # nobody can tell
    if place != (_place_behind(before) if before else (0, 0, 0)):
        raise ValueError("its images or units don't follow those of the chunk before it")


def _place_behind(chunk: Chunk) -> tuple[int, int, int]:
    return chunk.first_image + chunk.images, chunk.first_unit + chunk.units, chunk.extension + chunk.final
