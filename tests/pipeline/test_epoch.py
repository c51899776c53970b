"""One driver at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.epoch import SILENCE, Claim, RunBusyError, is_alive, latest_claim, take_over
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
