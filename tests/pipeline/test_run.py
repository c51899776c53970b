"""Whole runs on real Ray: real photographs, a real network, and the folder read by other people's tools."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from webdataset.compat import WebDataset

from jobs.spec import dump_job, load_job
from pipeline.epoch import RunBusyError, take_over
from pipeline.export import export
from pipeline.prepare import PreparedJob, prepare
from pipeline.provenance import OtherJobError
from pipeline.report.report import write_report
from pipeline.run import Outcome, retry, run
from pipeline.status import read_status
from pipeline.verify import verify
from workers.storage import open_store

DREAM = """
source: {uri: photos, labels: folder}
output: runs/dream
model: {name: efficientnet_lite0}
images: {short_side: 64, snap: 16}
units: {size: 2}
max_failed: 0.5
deepdream:
  stages:
    - {layers: [blocks.2], octaves: 2, iterations: 2, jitter: 8}
"""


def run_job(job: Path, *overrides: str) -> Outcome:
    return run_prepared(prepare(load_job(job, overrides)))


def run_prepared(job: PreparedJob, command: Callable[..., Outcome] = run, **options: bool) -> Outcome:
    return command(job, job_yaml=dump_job(job.config), console=Console(file=io.StringIO()), **options)


def rows_of(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = pq.read_table(folder / "manifest.parquet").to_pylist()
    return {(row["uri"], row["variant"]): row for row in rows}


def read_samples(shards: list[str]) -> dict[str, dict[str, Any]]:
    decoded: Any = WebDataset(shards, shardshuffle=False).decode("rgb8")
    return {sample["__key__"]: sample for sample in decoded}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, Path], ray_cluster: None) -> Path:
    """A folder with photographs in class folders, two of them broken, and a finished run of a dream over them."""
    folder = tmp_path_factory.mktemp("workplace")
    for label, name in (("cats", "chelsea"), ("people", "astronaut"), ("things", "coffee"), ("things", "rocket")):
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(photographs[name], folder / "photos" / label)
    (folder / "photos" / "broken.jpg").write_bytes(b"not a picture")
    (folder / "photos" / "cats" / "torn.png").write_bytes(photographs["chelsea"].read_bytes()[:20_000])
    (folder / "dream.yaml").write_text(DREAM)
    before = Path.cwd()
    os.chdir(folder)
    try:
        outcome = run_job(folder / "dream.yaml")
    finally:
        os.chdir(before)
    assert outcome.exit_code == 0 and outcome.counts.ok == 4
    return folder


@pytest.fixture(autouse=True)
def in_the_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def test_every_image_has_its_row_and_its_picture(workplace: Path) -> None:
    rows = rows_of(workplace / "runs/dream")
    assert len(rows) == 6
    assert {uri: row["error_code"] for (uri, _), row in rows.items() if row["status"] == "failed"} == {
        "broken.jpg": "not_an_image",
        "cats/torn.png": "truncated",
    }
    astronaut = rows["people/astronaut.png", ""]
    assert (astronaut["label"], astronaut["source_width"], astronaut["width"]) == ("people", 512, 64)
    assert astronaut["objective_last"] > astronaut["objective_first"] > 0
    assert astronaut["iterations"] == 4 and astronaut["batch_shape"] == "1x3x64x64"


def test_other_peoples_tools_read_the_folder(workplace: Path) -> None:
    folder = workplace / "runs/dream"
    parts = ds.dataset(folder / "manifest", partitioning="hive").to_table()
    assert parts.num_rows == 6
    assert set(pd.read_parquet(folder / "manifest.parquet")["status"]) == {"ok", "failed"}
    query = f"select count(*) from '{folder}/manifest/*/*.parquet' where status = 'ok'"
    assert duckdb.connect().execute(query).fetchall() == [(4,)]
    shards = sorted(map(str, (folder / "shards").glob("*.tar")))
    samples = read_samples(shards)
    ok = {row["key"]: row for row in rows_of(folder).values() if row["status"] == "ok"}
    assert samples.keys() == ok.keys()
    for key, row in ok.items():
        assert samples[key]["png"].shape == (row["height"], row["width"], 3)
        assert samples[key]["json"]["uri"] == row["uri"]


def test_the_folder_says_what_it_was_made_with(workplace: Path) -> None:
    facts = json.loads((workplace / "runs/dream/run.json").read_text())
    assert facts["state"] == "complete" and facts["counts"]["ok"] == 4
    assert facts["sessions"][0]["exit_code"] == 0 and facts["sessions"][0]["versions"]["torch"]
    assert len(facts["model"]["sha256"]) == 64
    assert facts["fixed"]["precision"] == ("bf16" if facts["fixed"]["device"]["bf16"] else "fp32")
    resolved = load_job(workplace / "runs/dream/job.yaml")
    assert Path(resolved.source.uri).is_absolute()


def test_running_a_finished_run_again_changes_nothing(workplace: Path) -> None:
    folder = workplace / "runs/dream"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.tar")} | {
        p: p.stat().st_mtime_ns for p in (folder / "manifest").rglob("*.parquet")
    }
    assert run_job(workplace / "dream.yaml").counts.outputs == 6
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(list(folder.rglob("*.tar"))) == sum(p.suffix == ".tar" for p in before)


def test_another_job_in_the_same_folder_is_refused(workplace: Path) -> None:
    with pytest.raises(OtherJobError, match="seed differs"):
        run_job(workplace / "dream.yaml", "seed=1")
    with pytest.raises(OtherJobError, match=r"deepdream\.stages"):
        run_job(workplace / "dream.yaml", "deepdream.stages.0.iterations=3")


def test_a_second_driver_is_refused_while_one_is_at_work(workplace: Path) -> None:
    driver = take_over(open_store(str(workplace / "runs/dream")))
    try:
        with pytest.raises(RunBusyError, match="Another driver"):
            run_job(workplace / "dream.yaml")
    finally:
        driver.release(0)


def test_the_outputs_come_back_in_the_sources_tree(workplace: Path, tmp_path: Path) -> None:
    store = open_store(str(workplace / "runs/dream"))
    assert export(store, tmp_path, class_tree=False) == 4
    exported = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")}
    assert exported == {"cats/chelsea.png", "people/astronaut.png", "things/coffee.png", "things/rocket.png"}
    with Image.open(tmp_path / "things/coffee.png") as picture:
        assert picture.size == (96, 64)


def test_status_and_verify_say_that_all_is_well(workplace: Path) -> None:
    store = open_store(str(workplace / "runs/dream"))
    found = read_status(store)
    assert (found.state, found.units, found.committed, found.outputs) == ("complete", 3, 3, 6)
    report = verify(store)
    assert report.faults == [] and (report.outputs, report.failed, report.orphans) == (6, 2, 0)


def test_verify_finds_a_torn_shard_and_names_its_unit(workplace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(workplace / "runs/dream", copy)
    shard = min((copy / "shards").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:3000])
    faults = verify(open_store(str(copy))).faults
    assert faults and all(f.startswith(f"unit {int(shard.name[:9])}: ") and shard.name in f for f in faults)


def test_a_grid_of_styles(workplace: Path, photographs: dict[str, Path]) -> None:
    (workplace / "style.yaml").write_text(f"""
source: photos/things
output: runs/style
images: {{short_side: 48, snap: 16}}
units: {{size: 3}}
style:
  styles: ["{photographs["chelsea"]}", "{photographs["astronaut"]}"]
  iterations: 3
  content_layers: [relu2_1]
  style_layers: [relu1_1, relu2_1]
""")
    outcome = run_job(workplace / "style.yaml")
    assert outcome.counts.ok == 4 and outcome.exit_code == 0
    rows = rows_of(workplace / "runs/style")
    assert set(rows) == {(uri, style) for uri in ("coffee.png", "rocket.jpg") for style in ("chelsea", "astronaut")}
    for (_, style), row in rows.items():
        assert row["style_uri"] == str(photographs[style]) and row["total_loss"] > 0 and row["iterations"] == 3
    pictures = {row["output_sha256"] for row in rows.values()}
    assert len(pictures) == 4
    export(open_store(str(workplace / "runs/style")), workplace / "styled", class_tree=False)
    assert (workplace / "styled/astronaut/coffee.png").exists() and (workplace / "styled/chelsea/rocket.png").exists()


def test_attributions_with_maps_that_sum_to_what_the_row_says(workplace: Path) -> None:
    (workplace / "attribution.yaml").write_text("""
source: photos/things
output: runs/attribution
model: {name: efficientnet_lite0}
images: {short_side: 96, frame: [96, 96]}
attribution:
  target: {top: 2}
  rule: {trapezoid: 8}
""")
    assert run_job(workplace / "attribution.yaml").counts.ok == 4
    rows = rows_of(workplace / "runs/attribution")
    assert {variant for _, variant in rows} == {"top1", "top2"}
    assert rows["coffee.png", "top1"]["target"] != rows["coffee.png", "top2"]["target"]
    assert rows["coffee.png", "top1"]["predicted"] == rows["coffee.png", "top1"]["target"]
    shards = sorted(map(str, (workplace / "runs/attribution/shards").glob("*.tar")))
    samples = read_samples(shards)
    for row in rows.values():
        attribution = samples[row["key"]]["npy"]
        assert attribution.shape == (96, 96) and attribution.dtype == np.float32
        assert attribution.sum(dtype=np.float64) == pytest.approx(row["attribution_sum"], rel=1e-3, abs=1e-4)
        difference = row["objective_value"] - row["baseline_value"]
        assert row["completeness_delta"] == pytest.approx(row["attribution_sum"] - difference, abs=1e-6)
        assert row["stop_reason"] == "fixed_rule" and row["heatmap_scale"] > 0


def test_a_run_killed_half_way_goes_on_to_the_same_pictures(workplace: Path, photographs: dict[str, Path]) -> None:
    """A driver in a process of its own with an embedded Ray, started in a folder full of hostile names."""
    for name in ("pipeline.py", "jobs.py", "workers.py"):
        (workplace / name).write_text("raise SystemExit('a stranger')")
    many = workplace / "many"
    many.mkdir()
    for i, name in enumerate(["chelsea", "coffee", "rocket", "astronaut"] * 3):
        shutil.copy(photographs[name], many / f"{i:02d}-{name}{photographs[name].suffix}")
    job = workplace / "many.yaml"
    job.write_text(DREAM.replace("uri: photos, labels: folder", "uri: many").replace("size: 2", "size: 1"))
    clean = run_job(job, "output=runs/clean")
    command = [str(Path(sys.executable).with_name("pixgrad")), "run", str(job), "--set", "output=runs/killed"]
    killed = workplace / "runs/killed"
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(killed.glob("manifest/round=0/*.parquet"))) < 3 and time.monotonic() < deadline:
        assert first.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    committed = {p.name: p.read_bytes() for p in killed.glob("manifest/round=0/*.parquet")}
    assert 3 <= len(committed) < 12
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert all((killed / "manifest/round=0" / name).read_bytes() == data for name, data in committed.items())
    assert clean.counts.ok == 12
    expected = {key: row["output_sha256"] for key, row in rows_of(workplace / "runs/clean").items()}
    assert {key: row["output_sha256"] for key, row in rows_of(killed).items()} == expected
    assert verify(open_store(str(killed))).faults == []


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The command in a process of its own, with an embedded Ray."""
    command = [str(Path(sys.executable).with_name("pixgrad")), *arguments]
    environ = os.environ | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def test_an_interrupted_run_says_how_to_go_on(workplace: Path, photographs: dict[str, Path]) -> None:
    for i in range(12):
        (workplace / "more").mkdir(exist_ok=True)
        shutil.copy(photographs["chelsea"], workplace / "more" / f"{i}.png")
    job = workplace / "more.yaml"
    job.write_text(DREAM.replace("uri: photos, labels: folder", "uri: more").replace("size: 2", "size: 1"))
    process = start("run", str(job), "--set", "output=runs/stopped")
    folder = workplace / "runs/stopped"
    deadline = time.monotonic() + 120
    while not list(folder.glob("manifest/round=0/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Interrupted." in err and "To go on: pixgrad run" in err and "Traceback" not in err
    facts = json.loads((folder / "run.json").read_text())
    assert facts["state"] == "unfinished" and facts["sessions"][-1]["exit_code"] == 130
    found = read_status(open_store(str(folder)))
    assert found.state.startswith("unfinished") and 0 < found.committed <= found.units == 12
    assert verify(open_store(str(folder))).faults == []


@pytest.mark.parametrize(
    ("number", "said_last"),
    [
        (signal.SIGINT, "Axioms: image 1 of 1"),
        (signal.SIGTERM, "Axioms: image 1 of 1"),
        (signal.SIGTERM, "Checking the axioms"),  # Ray is starting once more
    ],
)
def test_an_interrupt_while_the_axioms_are_checked_ends_as_one_of_the_run(
    workplace: Path, number: signal.Signals, said_last: str
) -> None:
    job, folder = workplace / "audited.yaml", workplace / "runs/audited"
    job.write_text("""
source: photos/cats/chelsea.png
output: runs/audited
model: {name: efficientnet_lite0}
images: {frame: [96, 96]}
attribution: {rule: {trapezoid: 2}, audit: {sample: 1, intervals: 200}}
""")
    process = start("run", str(job))
    assert process.stderr
    said = iter(process.stderr.readline, "")
    assert any(said_last in line for line in said)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Interrupted." in err and "To go on: pixgrad run" in err, err
    assert "Traceback" not in err and "SIGTERM" not in err, err
    store = open_store(str(folder))
    assert read_status(store).state == "complete" and not read_status(store).audit
    assert f"Axioms: not checked yet; pixgrad audit {folder}" in read_status(store).lines()
    write_report(store, open_store(str(folder / "report")))
    assert f"pixgrad audit {folder}" in (folder / "report/index.html").read_text()
    assert said_last.startswith("Checking") or said_last in "".join(log.read_text() for log in folder.glob("logs/*"))


def test_a_table_names_the_style_and_its_columns_ride_along(workplace: Path, photographs: dict[str, Path]) -> None:
    table = f"uri,painter,weight\n{photographs['coffee']},chelsea,1.5\n{photographs['rocket']},nobody,2\n"
    (workplace / "table.csv").write_text(table)
    (workplace / "table.yaml").write_text(f"""
source: table.csv
output: runs/table
images: {{short_side: 48, snap: 16}}
max_failed: 0.5
style:
  styles: ["{photographs["chelsea"]}", "{photographs["astronaut"]}"]
  assign: painter
  iterations: 2
  content_layers: [relu2_1]
  style_layers: [relu1_1]
""")
    assert run_job(workplace / "table.yaml").exit_code == 0
    rows = {row["painter"]: row for row in rows_of(workplace / "runs/table").values()}
    assert rows["chelsea"]["status"] == "ok" and rows["chelsea"]["weight"] == 1.5
    assert rows["chelsea"]["style_uri"] == str(photographs["chelsea"]) and rows["chelsea"]["variant"] == ""
    assert (rows["nobody"]["error_code"], rows["nobody"]["weight"]) == ("unknown_style", 2.0)


def test_a_failed_output_is_retried_and_an_added_image_is_taken_in(
    workplace: Path, photographs: dict[str, Path]
) -> None:
    source = workplace / "growing"
    source.mkdir()
    for name in ("coffee", "rocket"):
        shutil.copy(photographs[name], source)
    (source / "gone.png").symlink_to(workplace / "not-here.png")
    (workplace / "growing.yaml").write_text(
        DREAM.replace("uri: photos, labels: folder", "uri: growing").replace("runs/dream", "runs/growing")
    )
    folder, job = workplace / "runs/growing", prepare(load_job(workplace / "growing.yaml"))

    def do(command: Callable[..., Outcome] = run, **options: bool) -> dict[str, tuple[int, str | None]]:
        """The round and the error code of each output's latest row, after one more command."""
        run_prepared(job, command, **options)
        assert verify(open_store(str(folder))).faults == []
        return {uri: (row["round"], row["error_code"]) for (uri, _), row in rows_of(folder).items()}

    first = {"coffee.png": (0, None), "gone.png": (0, "missing"), "rocket.jpg": (0, None)}
    assert do() == first
    before = rows_of(folder)
    shutil.copy(photographs["chelsea"], workplace / "not-here.png")
    assert do(retry) == first | {"gone.png": (1, None)}
    parts = sorted(str(p.relative_to(folder)) for p in folder.glob("manifest/*/*.parquet"))
    assert do(retry) == first | {"gone.png": (1, None)}, "nothing is left to do"
    assert sorted(str(p.relative_to(folder)) for p in folder.glob("manifest/*/*.parquet")) == parts
    shutil.copy(photographs["astronaut"], source / "a-first.png")
    assert do().keys() == first.keys(), "it was not asked for"
    assert do(extend=True) == first | {"gone.png": (1, None), "a-first.png": (0, None)}
    after = rows_of(folder)
    assert after["a-first.png", ""]["unit"] == 2, "behind the units there were"
    assert all(after[uri, ""] == before[uri, ""] for uri in ("coffee.png", "rocket.jpg"))
    report = verify(open_store(str(folder)))
    assert (report.outputs, report.failed, report.unfinished, report.orphans) == (4, 0, 0, 0)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["counts"]["ok"] == 4 and [s["round"] for s in facts["sessions"]] == [0, 1, 0]
