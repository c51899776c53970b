"""The frozen plan: streamed, resumable, cut into units that never move."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.listing import Source
from pipeline.plan import Plan, Unit, UnitFeed, planned_units, read_chunks
from pipeline.variants import Grid
from workers.errors import PixgradError
from workers.layout import chunk_name
from workers.records import ImageRef, Variant
from workers.storage import LocalStore


class Numbers(Source):
    """So many images, with a column; may break off behind some of them, as a store that fails does."""

    def __init__(self, count: int, breaks_at: int | None = None):
        super().__init__("/nowhere", "/nowhere")
        self.columns = [pa.field("weight", pa.float64())]
        self.count = count
        self.breaks_at = breaks_at

    def _list(self, after: ImageRef | None) -> Iterator[ImageRef]:
        start = int(after.uri.split(".")[0]) + 1 if after else 0
        for number in range(start, self.count):
            if number == self.breaks_at:
                raise PixgradError("the store failed")
            yield ImageRef(f"{number:06d}.jpg", bytes=10, columns={"weight": number / 2})


GRID = Grid((Variant("a", 0), Variant("b", 1), Variant("c", 2)))


def plan_in(folder: Path, unit_size: int = 4) -> Plan:
    weight = pa.field("weight", pa.float64())
    return Plan(LocalStore(folder), GRID, unit_size, [weight])


def all_units(plan: Plan) -> list[Unit]:
    return [unit for chunk in plan.chunks() for unit in plan.units(chunk)]


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 200), unit_size=st.integers(1, 9), breaks=st.lists(st.integers(1, 199), max_size=3))
def test_a_listing_that_breaks_off_goes_on_to_the_same_plan(
    tmp_path_factory: pytest.TempPathFactory, count: int, unit_size: int, breaks: list[int]
) -> None:
    whole = plan_in(tmp_path_factory.mktemp("whole"), unit_size)
    list(whole.extend(Numbers(count)))
    broken = plan_in(tmp_path_factory.mktemp("broken"), unit_size)
    for place in breaks:
        try:
            list(broken.extend(Numbers(count, place)))
        except PixgradError:
            continue
    list(broken.extend(Numbers(count)))
    assert all_units(broken) == all_units(whole)
    assert broken.chunks() == whole.chunks()


def test_units_hold_every_output_once_in_order(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, unit_size=4)
    chunks = list(plan.extend(Numbers(50)))
    units = all_units(plan)
    assert [unit.id for unit in units] == list(range(len(units))) and planned_units(chunks) == len(units)
    outputs = [(o.image.uri, o.variant.name) for unit in units for o in unit.outputs]
    assert outputs == [(f"{n:06d}.jpg", v) for n in range(50) for v in "abc"]
    assert all(len(unit.outputs) == 4 for unit in units[:-1])
    sizes = {u: n for chunk in chunks for u, n in plan.unit_sizes(chunk).items()}
    assert sizes == {unit.id: len(unit.outputs) for unit in units}
    assert units[5].outputs[0].image.columns == {"weight": units[5].outputs[0].image.columns["weight"]}


def test_only_the_last_chunk_is_final_and_a_listed_plan_is_left_alone(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    list(plan.extend(Numbers(30)))
    assert [chunk.final for chunk in plan.chunks()][-1:] == [True]
    assert not any(chunk.final for chunk in plan.chunks()[:-1])
    assert list(plan.extend(Numbers(99))) == []


def test_a_listing_that_ends_with_a_full_chunk_is_final_too(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, unit_size=4)
    chunks = list(plan.extend(Numbers(4)))
    assert len(chunks) == 1 and chunks[0].final


def test_two_listings_into_one_plan_are_refused(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    listing = plan.extend(Numbers(100))
    next(listing)
    LocalStore(tmp_path).create(chunk_name(1), b"of another driver")
    with pytest.raises(PixgradError, match="Another driver"):
        next(listing)


def test_the_plan_is_plain_parquet(tmp_path: Path) -> None:
    list(plan_in(tmp_path).extend(Numbers(30)))
    table = pyarrow.dataset.dataset(tmp_path / "plan").to_table()
    assert table.column("uri").to_pylist() == [f"{n:06d}.jpg" for n in range(30)]
    assert table.schema.field("weight").type == pa.float64()
    assert sum(chunk.bytes for chunk in read_chunks(LocalStore(tmp_path))) == 300


def drain(feed: UnitFeed) -> list[Unit]:
    units = []
    while feed.listing or units is None:
        unit = feed.next()
        if unit:
            units.append(unit)
        else:
            time.sleep(0.001)
    return units


def test_the_feed_leaves_out_what_is_committed(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    feed = UnitFeed(plan, Numbers(40), {0, 3, 29})
    units = drain(feed)
    assert [unit.id for unit in units] == [n for n in range(30) if n not in (0, 3, 29)]
    assert feed.outputs == 120 and feed.committed_outputs == 12


def test_work_starts_before_the_listing_ends(tmp_path: Path) -> None:
    class Endless(Numbers):
        def _list(self, after: ImageRef | None) -> Iterator[ImageRef]:
            for image in super()._list(after):
                if image.uri == "000100.jpg":
                    time.sleep(3600)
                yield image

    feed = UnitFeed(plan_in(tmp_path), Endless(10_000), set())
    deadline = time.monotonic() + 20
    unit = None
    while unit is None and time.monotonic() < deadline:
        unit = feed.next()
    assert unit is not None and unit.id == 0 and feed.listing


def test_what_was_listed_before_an_error_can_be_done(tmp_path: Path) -> None:
    feed = UnitFeed(plan_in(tmp_path), Numbers(100, breaks_at=60), set())
    units = drain(feed)
    assert str(feed.error) == "the store failed"
    assert sum(len(unit.outputs) for unit in units) == feed.outputs > 0
