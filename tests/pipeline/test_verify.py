"""Every fault that can be planted in a run is found, and its unit named; nothing else is called a fault."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.provenance import fingerprint
from pipeline.seal import is_whole, seal
from pipeline.shard_check import read_shard
from pipeline.status import NoRunError
from pipeline.verify import Report, verify
from workers.records import output_key
from workers.storage import LocalStore

MakeRun = Callable[..., LocalStore]
Row = dict[str, Any]
Plant = Callable[[Path], object]

FAILURES = {
    (1, "dots"): ["corrupt"],  # unit 0: ok in round 1
    (4, "dots"): ["corrupt"] * 3,  # unit 2: never
    (6, "dots"): ["timeout"],  # unit 3: ok in round 1
    (6, "waves"): ["corrupt", "timeout"],  # unit 3: ok in round 2
    (7, "dots"): ["timeout"],  # unit 3: ok in round 1
}


@pytest.fixture(scope="module")
def whole(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of five units and three rounds: 9 images in 2 styles, one output failed for good."""
    return make_run(tmp_path_factory.mktemp("whole") / "run", rounds=3, failures=FAILURES).root


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy to plant a fault in."""
    return shutil.copytree(whole, tmp_path / "run")


def check(run: Path) -> Report:
    return verify(LocalStore(run))


def shard(run: Path, unit: int) -> Path:
    """The first shard of a unit."""
    return min((run / "shards").glob(f"{unit:09d}-*.tar"))


def part(run: Path, unit: int, round: int = 0) -> Path:
    return run / "manifest" / f"round={round}" / f"{unit:09d}.parquet"


def chunk(run: Path, number: int) -> Path:
    return run / "plan" / f"{number:06d}.parquet"


def read_table(file: Path) -> pa.Table:
    return pq.read_table(io.BytesIO(file.read_bytes()))


def write_table(file: Path, table: pa.Table, *, sealed: bool = True) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    file.write_bytes(seal(buffer.getvalue()) if sealed else buffer.getvalue())


def edit_rows(file: Path, edit: Callable[[list[Row]], object]) -> None:
    """Change a part's rows and seal it again: the fault is in what it says."""
    table = read_table(file)
    rows = table.to_pylist()
    edit(rows)
    write_table(file, pa.Table.from_pylist(rows, table.schema))


def edited(unit: int, edit: Callable[[list[Row]], object], round: int = 0) -> Plant:
    return lambda run: edit_rows(part(run, unit, round), edit)


def with_ok_row(columns: Row) -> Callable[[list[Row]], object]:
    """Change columns of the first ok row."""
    return lambda rows: next(row for row in rows if row["status"] == "ok").update(columns)


def edited_members(unit: int, edit: Callable[[list[tuple[str, bytes]]], object]) -> Plant:
    """Change what is in a unit's first shard, and the shard's hash in its rows: the fault is among the members."""

    def plant(run: Path) -> None:
        file = shard(run, unit)
        with tarfile.open(file) as tar:
            members = [(m.name, f.read()) for m in tar if (f := tar.extractfile(m))]
        edit(members)
        with tarfile.open(file, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()

        def record(rows: list[Row]) -> None:
            for row in rows:
                row["shard_sha256"] = sha256 if row["shard"] == f"shards/{file.name}" else row["shard_sha256"]

        edit_rows(part(run, unit), record)

    return plant


def edited_facts(edit: Callable[[dict[str, Any]], object]) -> Plant:
    def plant(run: Path) -> None:
        facts = json.loads((run / "run.json").read_text())
        edit(facts)
        (run / "run.json").write_text(json.dumps(facts))

    return plant


def swap(first: Path, second: Path) -> None:
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


@contextmanager
def changed(file: Path, content: bytes | None) -> Iterator[None]:
    """The file with other content, or gone, for the block."""
    before = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def assert_found(run: Path, units: set[int], sentence: str) -> None:
    """The fault is found, and what is found is of these units; of the run as a whole if there are none."""
    faults = check(run).faults
    assert any(re.search(sentence, fault) for fault in faults), faults
    named = [re.match(r"unit (\d+): ", fault) for fault in faults]
    assert {int(match[1]) for match in named if match} == units, faults


def test_a_whole_run_has_no_fault(whole: Path) -> None:
    report = check(whole)
    assert report.faults == []
    assert (report.units, report.unfinished, report.outputs, report.failed, report.rounds) == (5, 0, 18, 1, 3)
    assert (report.shards, report.orphans) == (len(list((whole / "shards").iterdir())), 0)
    assert report.lines()[1] == f"root {report.root}"


def test_other_peoples_tools_read_sealed_parts(whole: Path) -> None:
    rows = 18 + len(FAILURES) + 2
    assert is_whole(part(whole, 3).read_bytes())
    assert ds.dataset(whole / "manifest", partitioning="hive").to_table().num_rows == rows
    assert list(pd.read_parquet(part(whole, 3, 2))["status"]) == ["ok"]
    assert duckdb.connect().execute(f"select count(*) from '{whole}/manifest/*/*.parquet'").fetchall() == [(rows,)]


# -- shards


@pytest.mark.parametrize("length", [0, 1, 511, 512, 900, 1300, 2048, 4000, -512, -1])
def test_a_torn_shard(run: Path, length: int) -> None:
    cut(shard(run, 1), length)
    assert_found(run, {1}, "has not the content")


@pytest.mark.parametrize(
    ("plant", "units", "sentence"),
    [
        (lambda run: shard(run, 2).unlink(), {2}, r"shards/000000002-\w+.tar is missing"),
        (lambda run: swap(shard(run, 0), shard(run, 4)), {0, 4}, "has not the content"),
        (lambda run: shutil.copy(shard(run, 0), shard(run, 4)), {4}, "members that no row names"),
        (lambda run: shard(run, 0).open("ab").write(bytes(512)), {0}, "has not the content"),
        (edited_members(1, lambda members: members.pop(0)), {1}, "1 of 2 outputs in .* are missing or changed"),
        (edited_members(1, lambda m: m.insert(0, (m.pop(0)[0], b"other"))), {1}, "1 of 2 outputs in .* changed"),
        (edited_members(1, lambda members: members.append(("0" * 32 + ".png", b""))), {1}, "1 members that no row"),
        (edited_members(1, lambda members: members.append(members[0])), {1}, "has 1 members twice"),
    ],
)
def test_a_fault_in_a_shard(run: Path, plant: Plant, units: set[int], sentence: str) -> None:
    plant(run)
    assert_found(run, units, sentence)


def test_a_shard_of_a_later_round_is_checked(run: Path) -> None:
    name = read_table(part(run, 3, 2)).column("shard")[0].as_py()
    cut(run / name, 700)
    assert_found(run, {3}, f"{name} is torn")


def test_a_shard_that_no_row_names_is_an_orphan_and_no_fault(run: Path) -> None:
    shutil.copy(shard(run, 0), run / "shards" / "000000000-0123456789abcdef.tar")
    report = check(run)
    assert report.orphans == 1 and not report.faults


def test_shards_are_read_in_bounded_memory(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "large.tar", "w") as tar:
        for number in range(2):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 32 * 2**20
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    tracemalloc.start()
    try:
        with (tmp_path / "large.tar").open("rb") as file:
            content = read_shard(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20
    assert content.sha256 == hashlib.sha256((tmp_path / "large.tar").read_bytes()).hexdigest()
    assert content.members == [(f"{n}.png", hashlib.sha256(bytes(32 * 2**20)).hexdigest()) for n in range(2)]


# -- parts and rows


@pytest.mark.parametrize("length", [0, 4, 100, 4000, -40, -8, -1])
def test_a_torn_part(run: Path, length: int) -> None:
    cut(part(run, 1), length)
    assert_found(run, {1}, "000000001.parquet is damaged")


@pytest.mark.parametrize(
    ("plant", "units", "sentence"),
    [
        (lambda run: part(run, 1).unlink(), {1}, "no part, and run.json says that the run is complete"),
        (lambda run: part(run, 3).unlink(), {3}, "a part in round 1 and none in round 0"),
        (lambda run: part(run, 3, 2).unlink(), set(), "run.json counts 10 parts"),
        (lambda run: part(run, 2, 1).unlink(), set(), "run.json counts 10 parts"),  # failed before and after it
        (lambda run: swap(part(run, 0), part(run, 4)), {0, 4}, "4 of its 4 outputs have no row"),
        (lambda run: shutil.copy(part(run, 0), part(run, 1)), {1}, "not planned for it"),
        (lambda run: shutil.copy(part(run, 3, 1), part(run, 3, 2)), {3}, "of another unit or round"),
        (lambda run: shutil.copy(part(run, 0), part(run, 0, 1)), {0}, "had not failed before"),
        (lambda run: shutil.copy(part(run, 0), part(run, 5)), {5}, "is in no chunk of the plan"),
        (
            lambda run: shutil.copy(part(run, 0), part(run, 0).with_name("000000000 (copy).parquet")),
            set(),
            "is not the part of a unit",
        ),
        (lambda run: write_table(part(run, 1), read_table(part(run, 1)), sealed=False), {1}, "match its seal"),
        (lambda run: part(run, 1).write_bytes(seal(b"PAR1" + bytes(60) + b"PAR1")), {1}, "is damaged"),
    ],
)
def test_a_fault_among_the_parts(run: Path, plant: Plant, units: set[int], sentence: str) -> None:
    plant(run)
    assert_found(run, units, sentence)


@pytest.mark.parametrize(
    ("plant", "units", "sentence"),
    [
        (edited(1, lambda rows: rows.pop()), {1}, "1 of its 4 outputs have no row"),
        (edited(1, lambda rows: rows.append(rows[0])), {1}, "1 of its 5 rows of round 0 are of an output that has"),
        (edited(1, lambda rows: rows[0].update(key="0" * 32)), {1}, "1 of its 4 rows of round 0 .* not planned for it"),
        (edited(1, lambda rows: rows[0].update(unit=2)), {1}, "another unit or round"),
        (edited(1, lambda rows: rows[0].update(round=1)), {1}, "another unit or round"),
        (edited(1, lambda rows: rows[0].update(uri="002.jpeg")), {1}, "name another image or variant"),
        (edited(1, lambda rows: rows[0].update(variant="waves")), {1}, "name another image or variant"),
        (edited(1, lambda rows: rows[0].update(seed=rows[0]["seed"] + 1)), {1}, "have another seed"),
        (edited(1, lambda rows: rows[0].update(status="fine")), {1}, "neither ok nor failed"),
        (edited(1, with_ok_row({"shard": None})), {1}, "no file of their own"),
        (edited(1, with_ok_row({"shard": "shards/000000002-aa.tar"})), {1}, "no file of their own"),
        (edited(1, with_ok_row({"shard": "shards/../000000001-aa.tar"})), {1}, "no file of their own"),
        (edited(1, with_ok_row({"shard_member": "0" * 32 + ".png"})), {1}, "no file of their own"),
        (edited(1, with_ok_row({"shard_sha256": "0" * 64})), {1}, "has not the content"),
        (edited(1, with_ok_row({"output_sha256": "0" * 64})), {1}, "are missing or changed"),
        (edited(1, with_ok_row({"output_sha256": None})), {1}, "no file of their own"),
        (edited(2, lambda rows: rows[0].update(error_code=None)), {2}, "give no reason"),
        (edited(2, lambda rows: rows[0].update(error="")), {2}, "give no reason"),
        (edited(3, lambda rows: rows.append(rows[0]), round=1), {3}, "1 of its 4 rows of round 1 are of an output"),
        (edited(3, lambda rows: rows[0].update(round=0), round=2), {3}, "rows of round 2 .* another unit or round"),
        (edited(3, lambda rows: rows[0].update(seed=0), round=2), {3}, "rows of round 2 have another seed"),
        (
            edited(0, lambda rows: rows.extend([{**rows[0], "key": output_key("000.jpg", None, "dots")}]), round=1),
            {0},
            "1 of its 2 rows of round 1 are of outputs that had not failed before",
        ),
    ],
)
def test_a_fault_among_the_rows(run: Path, plant: Plant, units: set[int], sentence: str) -> None:
    plant(run)
    assert_found(run, units, sentence)


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: table.replace_schema_metadata({"pixgrad_schema": "2"}),
        lambda table: table.replace_schema_metadata(None),
        lambda table: table.drop_columns(["shard"]),
        lambda table: table.set_column(0, "key", table.column("key").cast(pa.large_string())),
    ],
)
def test_rows_of_another_schema(run: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    write_table(part(run, 1), edit(read_table(part(run, 1))))
    assert_found(run, {1}, "another schema|lacks the columns")


def test_a_run_half_done_has_no_fault(run: Path) -> None:
    edited_facts(lambda facts: facts.update(state="unfinished"))(run)
    part(run, 4).unlink()
    part(run, 3, 2).unlink()
    chunk(run, 1).rename(run / "kept")
    for unit in (2, 3):
        for round in range(3):
            part(run, unit, round).unlink(missing_ok=True)
    report = check(run)
    assert report.faults == [] and (report.units, report.unfinished, report.outputs) == (2, 0, 8)
    (run / "kept").rename(chunk(run, 1))
    report = check(run)
    assert report.faults == [] and (report.units, report.unfinished, report.outputs) == (2, 3, 8)
    assert report.orphans > 0


# -- the plan


def edited_header(number: int, **fields: Any) -> Plant:
    def plant(run: Path) -> None:
        table = read_table(chunk(run, number))
        header = json.loads(table.schema.metadata[b"pixgrad_chunk"]) | fields
        metadata = {"pixgrad_chunk": json.dumps(header)}
        write_table(chunk(run, number), table.replace_schema_metadata(metadata))

    return plant


@pytest.mark.parametrize(
    ("plant", "units", "sentence"),
    [
        (lambda run: chunk(run, 0).unlink(), {0, 1}, "^plan/000000.parquet is missing"),
        (lambda run: chunk(run, 1).unlink(), {2, 3, 4}, "^the plan has no end"),
        (lambda run: cut(chunk(run, 0), 0), {0, 1}, "plan/000000.parquet is damaged"),
        (lambda run: cut(chunk(run, 1), -30), {2, 3, 4}, "plan/000001.parquet is damaged"),
        (lambda run: swap(chunk(run, 0), chunk(run, 1)), {0, 1, 2, 3, 4}, "header is that of another chunk"),
        (lambda run: shutil.copy(chunk(run, 1), chunk(run, 2)), set(), "plan/000002.parquet is damaged"),
        (lambda run: shutil.copy(chunk(run, 1), run / "plan" / "1.parquet"), set(), "is not a chunk of the plan"),
        (edited_header(1, first_image=5), {2, 3, 4}, "don't follow"),
        (edited_header(1, first_unit=3), {2, 3, 4}, "don't follow"),
        (edited_header(1, extension=1), {2, 3, 4}, "don't follow"),
        (edited_header(0, images=3), {2, 3, 4}, "^plan/000000.parquet has 4 of its 3 images"),
        (edited_header(1, images=6), set(), "^plan/000001.parquet has 5 of its 6 images"),
        (edited_header(1, units=10**12), {2, 3, 4}, "header is that of another chunk"),
        (edited_header(1, units="3"), {2, 3, 4}, "plan/000001.parquet is damaged"),
        (edited_header(1, surprise=1), {2, 3, 4}, "plan/000001.parquet is damaged"),
        (edited_header(1, final=False), set(), "^the plan has no end"),
    ],
)
def test_a_fault_in_the_plan(run: Path, plant: Plant, units: set[int], sentence: str) -> None:
    plant(run)
    assert_found(run, units, sentence)


@pytest.mark.parametrize(
    ("images", "units", "sentence"),
    [([3, 1, 2, 0], {0, 1}, "not planned for it"), ([0, 0, 2, 3], {0}, "the plan has an output twice")],
)
def test_other_images_in_the_listing_are_found(run: Path, images: list[int], units: set[int], sentence: str) -> None:
    table = read_table(chunk(run, 0))
    write_table(chunk(run, 0), table.take(images).replace_schema_metadata(table.schema.metadata))
    assert_found(run, units, sentence)


# -- run.json and job.yaml


def with_another_seed(facts: dict[str, Any]) -> None:
    facts["fingerprint_fields"]["seed"] = 8
    facts["fingerprint"] = fingerprint(facts["fingerprint_fields"])


@pytest.mark.parametrize(
    ("plant", "units", "sentence"),
    [
        (edited_facts(lambda f: f["fingerprint_fields"]["model"].update(weights="1" * 64)), set(), "is not the hash"),
        (edited_facts(lambda f: f.update(fingerprint="0" * 64)), set(), "is not the hash of its fingerprint_fields"),
        (edited_facts(with_another_seed), {0, 1, 2, 3, 4}, "have another seed"),
        (edited_facts(with_another_seed), {0, 1, 2, 3, 4}, "job.yaml is another job"),
        (edited_facts(lambda f: f.update(schema=2)), {0, 1, 2, 3, 4}, "another schema"),
        (edited_facts(lambda f: f["counts"].update(ok=16)), set(), "run.json counts 10 parts with 16 ok"),
        (edited_facts(lambda f: f["counts"].update(failures={"timeout": 1})), set(), r"\(1 timeout\).*\(1 corrupt\)"),
        (lambda run: (run / "job.yaml").unlink(), set(), "job.yaml is missing"),
        (lambda run: (run / "job.yaml").write_text("[:"), set(), "job.yaml is damaged"),
        (lambda run: (run / "job.yaml").write_text("source: photos"), set(), "job.yaml is damaged"),
        (lambda run: (run / "job.yaml").write_bytes(b"\xff\xfe\x00"), set(), "job.yaml is damaged"),
    ],
)
def test_a_fault_in_what_the_run_says_of_itself(run: Path, plant: Plant, units: set[int], sentence: str) -> None:
    plant(run)
    assert_found(run, units, sentence)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("seed: 7", "seed: 8"),
        ("uri: /photos", "uri: /other"),
        ("size: 4", "size: 5"),
        ("name: vgg19", "name: vgg16"),
        ("precision: auto", "precision: bf16"),
        ("iterations: 300", "iterations: 301"),
    ],
)
def test_another_job_beside_the_run(run: Path, before: str, after: str) -> None:
    job = run / "job.yaml"
    assert before in job.read_text()
    job.write_text(job.read_text().replace(before, after))
    assert check(run).faults == ["job.yaml is another job than the fingerprint_fields of run.json"]


def test_name_workers_and_budget_of_a_job_may_change(run: Path) -> None:
    job = run / "job.yaml"
    job.write_text(job.read_text().replace("name: made", "name: other").replace("max_failed: 0.01", "max_failed: 0.5"))
    assert check(run).faults == []


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\xff{}", b"[]", b"{}", b"[" * 100_000, b'{"fingerprint_fields": {"units": {"size": 0}}}'],
)
def test_a_damaged_run_file_is_one_sentence(run: Path, damage: bytes) -> None:
    (run / "run.json").write_bytes(damage)
    [fault] = check(run).faults
    assert "run.json is damaged" in fault and "\n" not in fault and len(fault) < 300


def test_a_folder_without_a_run(run: Path) -> None:
    (run / "run.json").unlink()
    with pytest.raises(NoRunError, match="no run"):
        check(run)


# -- any byte, any file


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_byte_of_a_shard_or_a_part_that_changes_is_found(whole: Path, data: st.DataObject) -> None:
    files = sorted([*(whole / "shards").iterdir(), *(whole / "manifest").rglob("*.parquet")])
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with changed(file, bytes(content)):
        faults = check(whole).faults
    unit = int(file.name[:9])
    assert faults and all(f.startswith((f"unit {unit}: ", "run.json counts")) for f in faults)
    assert faults[0].startswith(f"unit {unit}: ")


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_byte_of_the_plan_ends_in_a_traceback(whole: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted((whole / "plan").iterdir())))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with changed(file, bytes(content)):
        assert all("\n" not in fault for fault in check(whole).faults)


def test_any_file_of_plan_parts_and_shards_that_is_gone_is_found(whole: Path) -> None:
    files = [file for folder in ("plan", "manifest", "shards") for file in (whole / folder).rglob("*.*")]
    assert len(files) == 2 + 10 + len(list((whole / "shards").iterdir()))
    for file in files:
        with changed(file, None):
            assert check(whole).faults, file
    assert check(whole).faults == []


# -- the root


SAME = {"rounds": 1, "failures": {(4, "dots"): ["corrupt"]}}


def test_one_content_has_one_root(make_run: MakeRun, whole: Path, tmp_path: Path) -> None:
    """Other attempts, another cut, no retries, another place of the source."""
    root = check(whole).root
    for number, change in enumerate([{}, {"unit_size": 3}, {"unit_size": 100}, {"uri": "/mnt/photos"}]):
        assert check(make_run(tmp_path / str(number), **SAME, **change).root).root == root


@pytest.mark.parametrize(
    "change",
    [
        {"pictures": {(0, "dots"): b"another picture"}},
        {"failures": {}},
        {"failures": {(4, "dots"): ["timeout"]}},
        {"failures": {(4, "waves"): ["corrupt"]}},
        {"images": 8},
        {"images": 10},
        {"seed": 8},
    ],
)
def test_another_content_has_another_root(
    make_run: MakeRun, whole: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    report = check(make_run(tmp_path / "other", **(SAME | change)).root)
    assert report.faults == [] and report.root != check(whole).root


def test_an_output_without_a_row_counts(run: Path, whole: Path) -> None:
    part(run, 1).unlink()
    assert check(run).root != check(whole).root


def test_the_root_is_what_the_documentation_says(whole: Path) -> None:
    facts = json.loads((whole / "run.json").read_text())
    fields = {k: v for k, v in facts["fingerprint_fields"].items() if k not in ("source", "units")}
    texts = [hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()]
    rows = {row["key"]: row for row in read_table(whole / "manifest.parquet").to_pylist()}
    for image in read_table(chunk(whole, 0)).to_pylist() + read_table(chunk(whole, 1)).to_pylist():
        for style in ("dots", "waves"):
            row = rows[output_key(image["uri"], image["member"], style)]
            texts += [row["key"], row["status"], row["output_sha256"] or row["error_code"]]
    framed = b"".join(len(text.encode()).to_bytes(8, "big") + text.encode() for text in texts)
    assert check(whole).root == hashlib.sha256(framed).hexdigest()
