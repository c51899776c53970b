"""Watching a run from its files: one that is over, one that goes on elsewhere, one that died."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.epoch import take_over
from pipeline.progress import watch as watching
from pipeline.progress.display import Nothing, display
from pipeline.progress.event_log import EventLog, EventReader
from pipeline.progress.style import Style
from pipeline.progress.tally import Tally
from pipeline.progress.watch import Watch, begun, watch
from pipeline.provenance import read_run, write_run
from pipeline.status import NoRunError, read_status
from workers.layout import EVENTS
from workers.storage import LocalStore, Store, open_store

MakeRun = Callable[..., LocalStore]


@pytest.fixture
def run(make_run: MakeRun, tmp_path: Path) -> LocalStore:
    """A complete run of 18 outputs in 5 units, and what was written down of its one session."""
    store = make_run(tmp_path / "run")
    write_run(store, {**(read_run(store) or {}), "name": "made", "task": "style", "model": {"name": "vgg19"}})
    return store


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.05)


def commit(log: EventLog, unit: int, outputs: int = 4, **failures: int) -> None:
    log.add("committed", {"unit": unit, "outputs": outputs, "failures": failures, "seconds": {"compute": 2.0}})


def progress(log: EventLog, **facts: Any) -> None:
    log.add("progress", Tally(**{"total": 18, "listing": False, **facts}).facts(0.0))


def watched(store: Store) -> list[dict[str, Any]]:
    """What is shown of a run as JSON lines."""
    console = Console(file=io.StringIO())
    with display(console, "made", Style.JSON) as shown:
        watch(store, shown)
    assert isinstance(console.file, io.StringIO)
    return [json.loads(line) for line in console.file.getvalue().splitlines()]


def test_a_run_that_is_over(run: LocalStore) -> None:
    tenure, log = take_over(run), EventLog(run, 0)
    progress(log)
    for unit in range(4):
        commit(log, unit, missing=1)
    commit(log, 4, outputs=2)
    tenure.release(3)
    last = watched(run)[-1]
    assert (last["done"], last["outputs"], last["committed"], last["failures"]) == (18, 18, 18, {"missing": 4})
    assert read_status(run).exit_code == 3, "as it ended"


def test_a_run_that_goes_on_elsewhere_is_followed_to_its_end(run: LocalStore) -> None:
    tenure, log = take_over(run), EventLog(run, 0)
    progress(log)
    seen: list[int] = []

    class Shown(Nothing):
        def show(self, tally: Tally, now: float, *, final: bool = False) -> None:
            if tally.done not in seen:
                seen.append(tally.done)

    def work() -> None:
        for unit in range(4):
            time.sleep(0.2)
            commit(log, unit)
        commit(log, 4, outputs=2)
        tenure.release(0)

    driver = threading.Thread(target=work)
    driver.start()
    standing = watch(run, Shown())
    driver.join()
    assert not standing.alive and standing.complete and standing.exit_code == 0
    assert seen[-1] == 18 and len(seen) > 2, "it was seen to grow"


def test_a_run_whose_driver_died_half_way(run: LocalStore) -> None:
    for part in sorted((run.root / "manifest/round=0").iterdir())[2:]:
        part.unlink()
    log = EventLog(run, 0)
    progress(log, gpus=1.0)
    commit(log, 0)
    commit(log, 1)
    with (run.root / EVENTS).open("a") as file:
        file.write('{"time": "2026-')
    last = watched(run)[-1]
    assert (last["done"], last["outputs"], last["gpus_per_worker"]) == (8, 18, 1.0)
    status = read_status(run)
    assert status.exit_code == 4 and status.state.startswith("unfinished") and status.outputs == 8


def test_a_later_session_counts_anew_on_what_was_there(run: LocalStore) -> None:
    commit(EventLog(run, 0), 0, missing=4)
    later = EventLog(run, 1)
    progress(later, before=4)
    commit(later, 1)
    commit(EventLog(run, 0), 2)  # by a driver that doesn't know yet that it is superseded
    following = Watch(run)
    following.look(Nothing(), alive=False)
    tally = following.tally
    assert (tally.before, tally.commits.count, tally.done, tally.failed) == (4, 4, 8, 0)


def test_a_run_about_to_begin_is_waited_for(run: LocalStore) -> None:
    facts = read_run(run) or {}
    run.delete("run.json")
    with pytest.raises(NoRunError):
        begun(run)
    tenure = take_over(run)
    threading.Timer(0.2, write_run, (run, facts)).start()
    assert begun(run).title == "made: style with vgg19"
    tenure.release(0)


def test_events_in_a_bucket_are_read_once_each(make_bucket: Callable[[], str]) -> None:
    store = open_store(f"{make_bucket()}/run")
    log, reader = EventLog(store, 0), EventReader(store)
    assert list(reader.new()) == []
    for units in ((0, 1), (2,)):
        for unit in units:
            commit(log, unit)
        log.flush()
        assert [event["unit"] for event in reader.new()] == list(units)
    assert list(reader.new()) == []
