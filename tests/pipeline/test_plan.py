"""The frozen plan: streamed, resumable, cut into units that never move."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SourceParams
from pipeline.listing import Source, behind
from pipeline.plan import RESERVED, Plan, Unit, UnitFeed, planned_units, read_chunks
from pipeline.source import open_source
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


class Listed(Source):
    """Images of these names in their order; listing may break off before one of them."""

    def __init__(self, names: Iterable[str], breaks_at: str | None = None):
        super().__init__("/nowhere", "/nowhere")
        self.names = list(names)
        self.breaks_at = breaks_at

    def _list(self, after: ImageRef | None) -> Iterator[ImageRef]:
        return behind(self._all(), after)

    def _all(self) -> Iterator[ImageRef]:
        for name in self.names:
            if name == self.breaks_at:
                raise PixgradError("the store failed")
            yield ImageRef(name, bytes=10)


def simple_plan(folder: Path, unit_size: int = 4) -> Plan:
    return Plan(LocalStore(folder), Grid((Variant(""),)), unit_size)


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "plan").iterdir()}


def uris(plan: Plan) -> list[str]:
    return [output.image.uri for unit in all_units(plan) for output in unit.outputs]


class TestAgain:
    """What was added to a source since it was listed."""

    def test_new_images_before_between_and_behind_the_old_ones(self, tmp_path: Path) -> None:
        plan, old = simple_plan(tmp_path), [f"m{n:02d}" for n in range(10)]
        list(plan.extend(Listed(old)))
        units, files = all_units(plan), files_of(tmp_path)
        new = ["a", "m03-b", "m03-c", "z"]
        [chunk] = plan.extend(Listed(sorted([*old, *new])), again=True)
        assert (chunk.final, chunk.extension, chunk.images) == (True, 1, 4)
        assert uris(plan) == [*old, *new]
        assert all_units(plan)[: len(units)] == units and files_of(tmp_path).items() >= files.items()
        assert [unit.id for unit in all_units(plan)] == list(range(len(units) + 1))
        assert plan.unit_sizes(chunk) == {len(units): 4}

    def test_nothing_new_leaves_the_plan_alone(self, tmp_path: Path) -> None:
        plan = simple_plan(tmp_path)
        list(plan.extend(Listed("abc")))
        files = files_of(tmp_path)
        assert list(plan.extend(Listed("abc"), again=True)) == []
        assert list(plan.extend(Listed("ac"), again=True)) == [], "an image that is gone is no news"
        assert files_of(tmp_path) == files

    def test_what_is_new_is_not_asked_for_without_it(self, tmp_path: Path) -> None:
        plan = simple_plan(tmp_path)
        list(plan.extend(Listed("bc")))
        assert list(plan.extend(Listed("abcd"))) == [] and uris(plan) == ["b", "c"]

    def test_a_fresh_plan_is_listed_once(self, tmp_path: Path) -> None:
        plan = simple_plan(tmp_path)
        chunks = list(plan.extend(Listed("abc"), again=True))
        assert uris(plan) == ["a", "b", "c"] and [chunk.extension for chunk in chunks] == [0]

    def test_an_interrupted_extension_is_taken_up_in_any_case(self, tmp_path: Path) -> None:
        plan, old = simple_plan(tmp_path, 2), ["m0", "m1", "m2"]
        list(plan.extend(Listed(old)))
        new = [f"a{n}" for n in range(9)]
        with pytest.raises(PixgradError, match="the store failed"):
            list(plan.extend(Listed([*new, *old], breaks_at="a5"), again=True))
        assert not plan.chunks()[-1].final and 0 < len(uris(plan)) - len(old) < len(new)
        files = files_of(tmp_path)
        list(plan.extend(Listed(["a", *new, *old])))
        assert sorted(uris(plan)) == sorted(["a", *new, *old]) and plan.chunks()[-1].final
        assert {chunk.extension for chunk in plan.chunks()} == {0, 1}
        assert files_of(tmp_path).items() >= files.items()
        assert list(plan.extend(Listed(["a", *new, *old]), again=True)) == []

    def test_an_interrupted_extension_with_nothing_left_is_ended(self, tmp_path: Path) -> None:
        plan = simple_plan(tmp_path, 1)
        list(plan.extend(Listed("m")))
        with pytest.raises(PixgradError):
            list(plan.extend(Listed("abm", breaks_at="m"), again=True))
        assert uris(plan) == ["m", "a"]
        list(plan.extend(Listed("am")))
        assert uris(plan) == ["m", "a"] and plan.chunks()[-1].final

    def test_an_extension_that_fails_before_its_first_chunk_leaves_nothing(self, tmp_path: Path) -> None:
        plan = simple_plan(tmp_path)
        list(plan.extend(Listed("m")))
        with pytest.raises(PixgradError):
            list(plan.extend(Listed("am", breaks_at="m"), again=True))
        assert uris(plan) == ["m"] and plan.chunks()[-1].final
        list(plan.extend(Listed("am"), again=True))
        assert uris(plan) == ["m", "a"]

    def test_an_interrupted_first_listing_is_ended_before(self, tmp_path: Path) -> None:
        plan, names = simple_plan(tmp_path, 2), [f"m{n}" for n in range(9)]
        with pytest.raises(PixgradError):
            list(plan.extend(Listed(names, breaks_at="m5")))
        listed = uris(plan)
        assert 0 < len(listed) < 6
        list(plan.extend(Listed(["a", *names, "z"]), again=True))
        assert uris(plan) == [*names, "z", "a"]
        assert [c.extension for c in plan.chunks() if c.final] == [0, 1]

    def test_the_second_row_of_an_image_in_a_table_is_an_output_of_its_own(self, tmp_path: Path) -> None:
        table = tmp_path / "table.csv"

        def source() -> Source:
            return open_source(SourceParams(uri=str(table)), reserved=RESERVED)

        table.write_text("uri,weight\na.jpg,1\nb.jpg,2\na.jpg,3\n")
        plan = Plan(LocalStore(tmp_path / "run"), Grid((Variant(""),)), 2, source().columns)
        list(plan.extend(source()))
        units = all_units(plan)
        table.write_text("uri,weight\na.jpg,1\nb.jpg,2\na.jpg,3\nc.jpg,4\na.jpg,5\nb.jpg,6\n")
        list(plan.extend(source(), again=True))
        images = [output.image for unit in all_units(plan) for output in unit.outputs]
        assert [(i.uri, i.member, i.columns["weight"]) for i in images] == [
            ("a.jpg", None, 1), ("b.jpg", None, 2), ("a.jpg", "#2", 3),
            ("c.jpg", None, 4), ("a.jpg", "#3", 5), ("b.jpg", "#2", 6),
        ]  # fmt: skip
        assert all_units(plan)[: len(units)] == units
        assert len({output.key for unit in all_units(plan) for output in unit.outputs}) == 6
        assert list(plan.extend(source(), again=True)) == []

    def test_the_feed_gives_what_is_new(self, tmp_path: Path) -> None:
        plan = simple_plan(tmp_path, 2)
        list(plan.extend(Listed("bcd")))
        feed = UnitFeed(plan, Listed("abcde"), {0, 1}, extend=True)
        assert [[o.image.uri for o in unit.outputs] for unit in drain(feed)] == [["a", "e"]]
        assert feed.outputs == 5 and feed.committed_outputs == 3

    @settings(max_examples=25, deadline=None)
    @given(
        stages=st.lists(
            st.tuples(st.sets(st.integers(0, 60), min_size=1), st.none() | st.integers(0, 60), st.booleans()),
            min_size=1,
            max_size=5,
        ),
        unit_size=st.integers(1, 5),
    )
    def test_any_history_holds_each_image_once(
        self, tmp_path_factory: pytest.TempPathFactory, stages: list[tuple[set[int], int | None, bool]], unit_size: int
    ) -> None:
        """A source that only grows, listings that break off anywhere, with `again` and without."""
        folder = tmp_path_factory.mktemp("run")
        plan, present = simple_plan(folder, unit_size), set[str]()
        files: dict[str, bytes] = {}
        for added, break_at, again in [*stages, (set[int](), None, True), (set[int](), None, True)]:
            present |= {f"{n:02d}" for n in added}
            with suppress(PixgradError):
                list(plan.extend(Listed(sorted(present), f"{break_at:02d}" if break_at else None), again=again))
            if files:
                assert files_of(folder).items() >= files.items(), "what is frozen stays"
            files = files_of(folder) if (folder / "plan").exists() else {}
        assert sorted(uris(plan)) == sorted(present)
        assert [unit.id for unit in all_units(plan)] == list(range(planned_units(plan.chunks())))
        assert plan.chunks()[-1].final
