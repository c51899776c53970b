"""One driver at a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import epoch
from pipeline.epoch import SILENCE, Claim, RunBusyError, is_alive, latest_claim, take_over
from workers.errors import PixgradError
from workers.layout import driver_name
from workers.storage import LocalStore


def claim_of(store: LocalStore) -> Claim:
    claim = latest_claim(store)
    assert claim is not None
    return claim


def test_a_live_driver_is_respected_and_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    driver = take_over(store)
    with pytest.raises(RunBusyError, match=f"process {driver.claim.pid}"):
        take_over(store)
    driver.release(0)
    assert claim_of(store).exit_code == 0
    successor = take_over(store)
    assert successor.claim.epoch == 1
    successor.release(0)


def test_a_driver_whose_process_is_gone_is_superseded_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pipeline.epoch import take_over; from workers.storage import LocalStore;"
        "take_over(LocalStore(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    store = LocalStore(tmp_path)
    assert claim_of(store).exit_code is None
    driver = take_over(store)
    assert driver.claim.epoch == 1
    driver.release(0)


def test_a_driver_on_another_machine_is_superseded_after_a_silent_minute(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    driver = take_over(store)
    driver.release(0)
    elsewhere = replace(driver.claim, host="elsewhere", seen=time.time())
    assert is_alive(elsewhere)
    assert not is_alive(elsewhere, now=elsewhere.seen + SILENCE + 1)
    assert not is_alive(replace(elsewhere, exit_code=0))


def test_a_pid_that_was_reused_is_another_process(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    driver = take_over(store)
    assert not is_alive(replace(driver.claim, process_started=driver.claim.process_started - 100))
    driver.release(0)


def test_a_claim_is_plain_json(tmp_path: Path) -> None:
    driver = take_over(LocalStore(tmp_path))
    driver.release(4)
    facts = json.loads((tmp_path / "drivers" / "000000.json").read_text())
    assert facts["exit_code"] == 4 and facts["host"] and facts["seen"] >= facts["started"]


CHILD = """
import sys, time
from pipeline.epoch import take_over
from workers.storage import LocalStore

take_over(LocalStore(sys.argv[1]))
print("taken", flush=True)
time.sleep(120)
"""


@pytest.fixture
def other_driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver of the run in a process of its own."""
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "taken\n"
        yield child
        child.kill()


def silence(store: LocalStore, seconds: float) -> None:
    claim = claim_of(store)
    store.replace(driver_name(claim.epoch), replace(claim, seen=claim.seen - seconds).encode())


def test_a_fresh_driver_of_this_machine_is_respected(tmp_path: Path, other_driver: subprocess.Popen[str]) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(RunBusyError, match=f"process {other_driver.pid} "):
        take_over(store)
    silence(store, SILENCE / 2)
    with pytest.raises(RunBusyError):
        take_over(store)
    assert claim_of(store).epoch == 0


def test_a_silent_driver_of_this_machine_is_superseded(tmp_path: Path, other_driver: subprocess.Popen[str]) -> None:
    """Its process is there still, but stopped, or it hangs."""
    other_driver.send_signal(signal.SIGSTOP)
    store = LocalStore(tmp_path)
    silence(store, SILENCE + 1)
    driver = take_over(store)
    assert driver.claim.epoch == 1 and other_driver.poll() is None
    driver.release(0)


def test_a_superseded_driver_learns_it_and_leaves_its_successors_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "HEARTBEAT", 0.02)
    store = LocalStore(tmp_path)
    first = take_over(store)
    assert not first.is_superseded()
    store.create(driver_name(1), replace(first.claim, epoch=1, host="elsewhere").encode())
    assert first.superseded.wait(30) and first.is_superseded()
    first.release(5)
    assert claim_of(store).epoch == 1 and claim_of(store).exit_code is None


def test_a_heartbeat_keeps_a_claim_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "HEARTBEAT", 0.02)
    store = LocalStore(tmp_path)
    driver = take_over(store)
    deadline = time.monotonic() + 30
    while claim_of(store).seen == driver.claim.seen and time.monotonic() < deadline:
        time.sleep(0.01)
    assert claim_of(store).seen > driver.claim.seen
    driver.release(0)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null", b'"x"', b'{"epoch": 0}', b"\xff\xfe", b'{"a": 1}'])
def test_a_damaged_claim_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    store = LocalStore(tmp_path)
    store.create(driver_name(0), data)
    with pytest.raises(PixgradError, match=r"drivers/000000\.json is damaged .*; delete it") as caught:
        take_over(store)
    assert "\n" not in str(caught.value)


def test_two_that_start_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    monkeypatch.setattr(epoch, "latest_claim", lambda store: None)  # both have looked before either claims
    driver = take_over(store)
    with pytest.raises(RunBusyError, match="same moment"):
        take_over(store)
    driver.release(0)
