"""Two runs on one cluster, nodes with notice to go, and GPUs that don't come."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import pipeline.driver
import pipeline.run
from jobs.spec import dump_job, load_job
from jobs.submit import Cluster, Ending
from pipeline import room
from pipeline.cluster import RunStopped
from pipeline.prepare import prepare
from pipeline.run import run
from pipeline.status import read_status
from pipeline.verify import verify
from workers.storage import open_store


def events(run: Path, *names: str) -> list[dict[str, Any]]:
    """The events of these names of a run, in order."""
    log = run / "events.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] in names]


def share(here: Any, head: str, wait_until: Any, images: dict[str, int]) -> tuple[Cluster, str, dict[str, Path]]:
    """A second job comes while a first has the whole cluster, and is done before the first; where the first is."""
    folders = {name: here.folder / f"run-{name}" for name in images}
    sources = {name: here.images(name, [f"{i:03d}-slow@compute-{i}" for i in range(n)]) for name, n in images.items()}
    jobs = {name: load_job(here.job_file(sources[name], folders[name]), ["workers.gpus=1"]) for name in images}
    cluster = Cluster(head)
    first, _ = cluster.submit(jobs["first"], ["--allow-code"], shared_paths=True)
    wait_until(lambda: len(events(folders["first"], "worker_ready")) == 2)  # it has both GPUs
    second, fresh = cluster.submit(jobs["second"], ["--allow-code"], shared_paths=True)
    assert fresh and cluster.submit(jobs["second"]) == (second, False), "under way: not begun a second time"
    log: list[str] = []
    assert cluster.follow(second, log.append) == Ending(0), "".join(log)
    assert f"{images['second']} of {images['second']} outputs made" in "".join(log)
    assert cluster.running(jobs["first"]) == first, "the second did not wait for the first to end"
    assert events(folders["first"], "worker_let_go")  # once more if it took it back before the second knew its network
    began = events(folders["second"], "worker_ready")[0]["time"]
    wait_until(lambda: events(folders["first"], "committed")[-1]["time"] > began)  # which went on meanwhile
    return cluster, first, folders


def test_a_second_job_gets_its_part_of_a_cluster_that_a_first_has(here: Any, head: str, wait_until: Any) -> None:
    cluster, first, folders = share(here, head, wait_until, {"first": 800, "second": 8})
    cluster.stop(first)
    assert cluster.follow(first, lambda text: None).exit_code == 130
    assert verify(open_store(str(folders["second"]))).faults == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_jobs_share_a_cluster_and_both_finish(here: Any, head: str, wait_until: Any) -> None:
    images = {"first": 900, "second": 40}
    cluster, first, folders = share(here, head, wait_until, images)
    let_go = len(events(folders["first"], "worker_let_go"))
    wait_until(lambda: len(events(folders["first"], "worker_ready")) == 2 + let_go)  # it took up again what was free
    assert cluster.follow(first, lambda text: None) == Ending(0)
    for name, folder in folders.items():
        store = open_store(str(folder))
        assert read_status(store).outputs == images[name] and verify(store).faults == []


def test_gpus_that_do_not_come_are_waited_for_as_told(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "of a cluster that may grow")
    monkeypatch.setattr(room, "SPAWN_SECONDS", 1.0)
    monkeypatch.setattr(room, "SAY_EVERY", 0.5)
    job = here.job(here.images("source", ["0"]), here.folder / "run")
    workers = job.config.workers.model_copy(update={"gpus": 3.0, "wait": 2.0})
    job = replace(job, config=job.config.model_copy(update={"workers": workers}))
    said = io.StringIO()
    with pytest.raises(RunStopped, match=r"no room yet for a worker.*3 GPUs \(0 in the cluster, 0 free\)") as caught:
        run(job, job_yaml=dump_job(job.config), console=Console(file=said, width=200))
    assert caught.value.exit_code == 4 and said.getvalue().count("no room yet") >= 2


def test_a_worker_for_whom_nothing_is_left_is_let_go(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    look_at_device = pipeline.run.probe
    monkeypatch.setattr(pipeline.run, "probe", lambda *asked: (look_at_device(*asked)[0], 0.0, 1))  # so two have room
    source = here.images("source", [f"{i:03d}-slow@compute-{i}" for i in range(80)])
    job = here.job(source, here.folder / "run")
    assert here.run(job).counts.ok == 80
    happened = [e["event"] for e in events(here.folder / "run", "worker_ready", "worker_let_go", "committed")]
    assert happened.count("worker_ready") == 2, "a unit's end is no reason to begin anew"
    assert happened[happened.index("worker_let_go") :].count("committed"), "let go while the other was still at work"


def test_a_guide_that_only_the_drivers_machine_has_reaches_the_workers(
    here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = here.images("guides", ["7"]) / "7.png"
    put = pipeline.driver._put_pictures

    def put_and_remove(setup: Any) -> Any:
        pictures = put(setup)
        guide.unlink()  # no worker has started yet
        return pictures

    monkeypatch.setattr(pipeline.driver, "_put_pictures", put_and_remove)
    monkeypatch.setenv("RAY_ADDRESS", "of a cluster")
    stage = f"deepdream.stages=[{{layers: [conv2], guide: {guide}, octaves: 1, iterations: 1, jitter: 0}}]"
    config = load_job(here.job_file(here.images("source", ["0"]), here.folder / "run"), [stage])
    assert here.run(prepare(config, allow_code=True)).counts.ok == 1 and not guide.exists()


def test_a_local_output_that_a_node_does_not_see_is_refused(here: Any) -> None:
    """As on a cluster whose nodes share no disk: here the folder is taken away under the worker."""
    from workers.actor import _check_output
    from workers.storage import StorageError

    _check_output(str(here.folder))
    _check_output("s3://bucket/run")
    with pytest.raises(StorageError, match=r"does not see the run's folder .*/elsewhere"):
        _check_output(str(here.folder / "elsewhere"))


@pytest.mark.long
def test_a_node_that_is_given_notice_gets_no_more_work(here: Any) -> None:
    source = here.images("source", [f"{i:03d}-slow@compute-{i}" for i in range(150)])
    command = here.command(source, here.folder / "run")
    script = str(Path(__file__).parent / "code" / "noticed_node.py")
    arguments = [sys.executable, script, str(here.folder / "run/events.jsonl"), *command.arguments]
    done = subprocess.run(arguments, env=os.environ | command.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [gone] = [event for event in events(here.folder / "run", "worker_let_go") if event["draining"]]
    assert not events(here.folder / "run", "worker_died", "worker_lost"), gone
    here.check("node given notice", 1, source, open_store(str(here.folder / "run")))
