"""Failed outputs as a new round, from the parts of rounds before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.commit import commit, count_outputs, list_parts
from pipeline.listing import Source
from pipeline.plan import Plan, Unit
from pipeline.rounds import RetryFeed, Round, next_round
from pipeline.seal import DamagedError, read_sealed
from pipeline.variants import Grid
from workers.layout import part_name
from workers.records import ImageRef, Piece, Variant, encode_rows, failed_row, ok_row, row_identity, row_schema
from workers.storage import LocalStore

MakeRun = Callable[..., LocalStore]
OutputName = tuple[int, str]
"""The number of an image and the name of its style."""

STYLES = ("dots", "waves")
UNIT_SIZE = 4
FAILURES = {(0, "waves"): ["corrupt"], (1, "dots"): ["empty", "empty"], (8, "waves"): ["worker_died", "timeout"]}
"""In units 0, 0 and 4, of 9 images in 2 styles: the first is made when it is tried again, the others fail twice."""


def plan_of(store: LocalStore) -> Plan:
    return Plan(store, Grid(tuple(Variant(name, i) for i, name in enumerate(STYLES))), UNIT_SIZE)


def names_of(units: Iterator[Unit]) -> dict[int, dict[int, OutputName]]:
    """What units hold: images and styles by unit and index."""
    return {u.id: {i: (int(u.output(i).image.uri[:3]), u.output(i).variant.name) for i in u.indices} for u in units}


def feed_of(store: LocalStore) -> dict[int, dict[int, OutputName]]:
    """What the next round would try, through its feed."""
    feed = RetryFeed(plan_of(store), next_round(store))
    return names_of(iter(feed.next, None))


def planned(store: LocalStore) -> dict[int, dict[int, OutputName]]:
    plan = plan_of(store)
    return names_of(unit for chunk in plan.chunks() for unit in plan.units(chunk))


def test_a_run_without_failures_has_nothing_to_retry(make_run: MakeRun, tmp_path: Path) -> None:
    assert next_round(make_run(tmp_path)) == Round(1, {})
    assert next_round(make_run(tmp_path)).outputs == 0


def test_the_failed_outputs_of_a_run_are_the_first_round(make_run: MakeRun, tmp_path: Path) -> None:
    store = make_run(tmp_path, failures=FAILURES)
    found = next_round(store)
    assert (found.number, found.outputs, found.failed.keys()) == (1, 3, {0, 4})
    assert feed_of(store) == {0: {1: (0, "waves"), 2: (1, "dots")}, 4: {1: (8, "waves")}}


def test_a_feed_gives_outputs_with_their_places_in_the_unit_as_planned(make_run: MakeRun, tmp_path: Path) -> None:
    store = make_run(tmp_path, images=40, failures={(n, "waves"): ["corrupt"] for n in range(0, 40, 3)})
    found = feed_of(store)
    everything = planned(store)
    assert sum(map(len, found.values())) == 14
    assert all(everything[unit][i] == name for unit, outputs in found.items() for i, name in outputs.items())
    assert all(name[1] == "waves" and name[0] % 3 == 0 for outputs in found.values() for name in outputs.values())


def test_a_feed_says_how_much_there_is_and_when_it_ends(make_run: MakeRun, tmp_path: Path) -> None:
    store = make_run(tmp_path, failures=FAILURES)
    feed = RetryFeed(plan_of(store), next_round(store))
    assert (feed.outputs, feed.committed_outputs, feed.listing, feed.error) == (3, 0, True, None)
    first, second = feed.next(), feed.next()
    assert first and second and (first.id, first.indices) == (0, (1, 2)) and feed.listing
    assert feed.next() is None and not feed.listing and feed.next() is None
    feed.close()


def test_after_a_complete_round_come_those_that_failed_again(make_run: MakeRun, tmp_path: Path) -> None:
    store = make_run(tmp_path, rounds=2, failures=FAILURES)
    assert next_round(store).number == 2
    assert feed_of(store) == {0: {2: (1, "dots")}, 4: {1: (8, "waves")}}


def test_after_a_round_that_made_everything_comes_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    assert next_round(make_run(tmp_path, rounds=3, failures=FAILURES)) == Round(3, {})


@pytest.mark.parametrize("lost", [{0}, {4}])
def test_an_interrupted_round_goes_on_with_what_it_lacks(make_run: MakeRun, tmp_path: Path, lost: set[int]) -> None:
    store = make_run(tmp_path, rounds=2, failures=FAILURES)
    for unit in lost:
        store.delete(part_name(1, unit))
    assert next_round(store).number == 1
    whole = {0: {1: (0, "waves"), 2: (1, "dots")}, 4: {1: (8, "waves")}}
    assert feed_of(store) == {unit: whole[unit] for unit in lost}


def test_an_interrupted_later_round_tries_only_what_the_one_before_did_not_make(
    make_run: MakeRun, tmp_path: Path
) -> None:
    store = make_run(tmp_path, rounds=3, failures=FAILURES)
    store.delete(part_name(2, 0))
    assert next_round(store).number == 2 and feed_of(store) == {0: {2: (1, "dots")}}


def test_a_round_of_which_nothing_was_committed_begins_anew(make_run: MakeRun, tmp_path: Path) -> None:
    store = make_run(tmp_path, rounds=2, failures=FAILURES)
    for unit in (0, 4):
        store.delete(part_name(1, unit))
    assert next_round(store).number == 1 and feed_of(store).keys() == {0, 4}


def cut_short(data: bytes) -> bytes:
    return data[:-20]


def with_another_seal(data: bytes) -> bytes:
    """As Parquet it is whole."""
    place = len(data) - 8 - int.from_bytes(data[-8:-4], "little") - 1
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("damage", [cut_short, with_another_seal])
def test_a_damaged_part_is_told_and_nothing_is_tried(
    make_run: MakeRun, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    store = make_run(tmp_path, failures=FAILURES)
    file = store.path(part_name(0, 2))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DamagedError, match=r"round=0/000000002\.parquet"):
        next_round(store)


class More(Source):
    """So many images, of which the run had the first."""

    def __init__(self, count: int):
        super().__init__("/photos", "/photos")
        self.count = count

    def _list(self, after: ImageRef | None) -> Iterator[ImageRef]:
        yield from (ImageRef(f"{number:03d}.jpg", bytes=10) for number in range(self.count))


def commit_rows(store: LocalStore, round: int, unit: Unit, failed: Collection[int]) -> None:
    """The part of a unit, or of its outputs in a round: failed rows for these images."""
    rows = []
    for output in unit.outputs:
        identity = row_identity(output, unit=unit.id, round=round, attempts=1, run_seed=7)
        bad = int(output.image.uri[:3]) in failed
        rows.append(failed_row(identity, "corrupt", "It is.") if bad else ok_row(identity, {"shard": "shards/x.tar"}))
    assert commit(store, round, unit.id, [Piece(unit.indices, encode_rows(rows, row_schema("style")), {}, {})])


def extend(store: LocalStore, images: int, failed: Collection[int]) -> None:
    """Take in images that were added; these of them fail."""
    plan = plan_of(store)
    for chunk in list(plan.extend(More(images), again=True)):
        for unit in plan.units(chunk):
            commit_rows(store, 0, unit, failed)


def do_round(store: LocalStore, failed: Mapping[int, Collection[int]]) -> None:
    """The next round; in round n, the images `failed[n]` fail once more."""
    found = next_round(store)
    feed = RetryFeed(plan_of(store), found)
    for unit in iter(feed.next, None):
        commit_rows(store, found.number, unit, failed.get(found.number, ()))


def test_what_fails_of_an_extension_joins_the_rounds_there_are(make_run: MakeRun, tmp_path: Path) -> None:
    """Round 1 lacks the new units then: it goes on with these, and what failed in it waits for round 2."""
    store = make_run(tmp_path, rounds=2, failures=FAILURES)
    extend(store, 12, failed={10})
    assert planned(store).keys() == {0, 1, 2, 3, 4, 5, 6}
    assert next_round(store).number == 1
    assert feed_of(store) == {5: {2: (10, "dots"), 3: (10, "waves")}}
    do_round(store, {1: {10}})
    assert next_round(store).number == 2
    assert feed_of(store) == {
        0: {2: (1, "dots")},
        4: {1: (8, "waves")},
        5: {2: (10, "dots"), 3: (10, "waves")},
    }
    do_round(store, {2: {8}})
    assert next_round(store).number == 3 and feed_of(store) == {4: {1: (8, "waves")}}
    counts = count_outputs(store)
    assert (counts.outputs, counts.failures) == (24, {"corrupt": 1})


def test_an_extension_without_failures_leaves_the_rounds_as_they_are(make_run: MakeRun, tmp_path: Path) -> None:
    store = make_run(tmp_path, rounds=2, failures=FAILURES)
    before = next_round(store)
    extend(store, 12, failed=())
    assert next_round(store) == before


def test_no_output_is_made_twice_whatever_is_retried(make_run: MakeRun, tmp_path: Path) -> None:
    store = make_run(tmp_path, rounds=2, failures=FAILURES)
    extend(store, 12, failed={9, 10})
    for _ in range(5):
        do_round(store, {1: {9}, 2: {1, 8}})
    assert next_round(store).failed == {}
    parts = [read_sealed(store, part.name, ["key", "round", "status"]).to_pylist() for part in list_parts(store)]
    rows = [row for part in parts for row in part]
    made = [row["key"] for row in rows if row["status"] == "ok"]
    assert len(made) == len(set(made)) == 24, "each once, in one of the rounds"
    assert len({(row["key"], row["round"]) for row in rows}) == len(rows)
