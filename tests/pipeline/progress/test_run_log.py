"""The log of a session, on a disk and in a bucket."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.progress.run_log import find_log, log_event, logger, run_log
from workers.storage import LocalStore, open_store


def test_what_went_wrong_is_in_the_log_and_not_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = LocalStore(tmp_path)
    assert find_log(store) is None
    with pytest.raises(ZeroDivisionError), run_log(store, 3):
        logger.info("began")
        logging.getLogger("some.library").warning("odd")
        logging.getLogger("some.library").info("chatter")
        warnings.warn("old", FutureWarning, stacklevel=1)
        log_event("worker_died", {"worker": "worker-1", "error": "gone", "details": "Segfault\n  in decode"})
        log_event("committed", {"unit": 7, "outputs": 64, "failures": {"truncated": 2}})
        raise ZeroDivisionError("a bug")
    assert find_log(store) == "logs/000003.log"
    text = (tmp_path / "logs/000003.log").read_text()
    for words in (
        "pixgrad: began",
        "some.library: odd",
        "FutureWarning: old",
        "worker-1 died and is replaced: gone\n    | Segfault\n    |   in decode\n",
        "unit 7 committed: 64 outputs, failed: 2 truncated",
        'raise ZeroDivisionError("a bug")',
    ):
        assert words in text
    assert "chatter" not in text
    log_event("worker_died", {"worker": "worker-2", "error": "gone"})
    assert "worker-2" not in (tmp_path / "logs/000003.log").read_text()
    assert capfd.readouterr() == ("", "")


def test_in_a_bucket_it_has_segments(make_bucket: Callable[[], str]) -> None:
    store = open_store(f"{make_bucket()}/run")
    with run_log(store, 0):
        logger.info("began")
    assert find_log(store) == "logs/000000-000000.log"
    assert b"pixgrad: began" in store.read("logs/000000-000000.log")


def test_a_store_that_fails_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    with run_log(LocalStore(tmp_path), 0):
        logger.info("began")
