"""A run opened for reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.reader import Run
from pipeline.status import NoRunError
from workers.storage import LocalStore

MakeRun = Callable[..., LocalStore]


def test_the_table_has_the_latest_row_of_every_output(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path, images=5, rounds=2, failures={(1, "dots"): ["timeout"], (2, "waves"): ["corrupt", "corrupt"]})
    table = Run(tmp_path).table(["status", "uri"])
    assert table.column_names == ["key", "round", "status", "uri"] and len(set(table.column("key").to_pylist())) == 10
    assert table.column("status").to_pylist().count("failed") == 1
    assert sorted(table.column("round").to_pylist()) == [0] * 8 + [1] * 2


def test_a_run_is_found_by_the_folder_of_its_pictures(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "dreams" / ".pixgrad")
    run = Run(tmp_path / "dreams")
    assert run.path == str(tmp_path / "dreams" / ".pixgrad") and run.facts["state"] == "complete"


def test_a_run_without_a_commit_has_no_rows(make_run: MakeRun, tmp_path: Path) -> None:
    store = make_run(tmp_path)
    for entry in list(store.list("manifest")):
        store.delete(entry.name)
    assert Run(tmp_path).table().num_rows == 0 and not list(Run(tmp_path).images())


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(NoRunError, match="holds no run"):
        Run(tmp_path)
