"""The flight recorder is read after its process is gone, by whatever end."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from workers.recorder import Recorder, read_recorder


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recorders lie in a folder of the test's own, for child processes too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def held(recorder: Recorder) -> set[tuple[int, int]] | None:
    found = read_recorder(str(recorder.folder))
    return None if found is None else set(found)


def test_what_is_held_is_recorded_while_it_is_held() -> None:
    recorder = Recorder()
    assert held(recorder) == set()
    with recorder.holding([(3, 0), (2**40, 7), (3, 1)]):
        assert held(recorder) == {(3, 0), (2**40, 7), (3, 1)}
    assert held(recorder) == set()
    with recorder.holding([(5, 5)]):
        assert held(recorder) == {(5, 5)}, "nothing is left of a longer entry"
    with recorder.holding([]):
        assert held(recorder) == set()


def test_an_error_lets_go() -> None:
    recorder = Recorder()
    with pytest.raises(KeyError), recorder.holding([(1, 1)]):
        raise KeyError
    assert held(recorder) == set()


def test_each_thread_holds_its_own() -> None:
    recorder, gate, go = Recorder(), threading.Barrier(5), threading.Event()

    def hold(thread: int) -> None:
        with recorder.holding([(thread, i) for i in range(thread + 1)]):
            gate.wait(10)
            go.wait(10)

    threads = [threading.Thread(target=hold, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    gate.wait(10)
    assert held(recorder) == {(thread, i) for thread in range(4) for i in range(thread + 1)}
    go.set()
    for thread in threads:
        thread.join(10)
    assert held(recorder) == set()


CHILD = """
import sys, threading, time
from workers.recorder import Recorder

recorder = Recorder()

def hold(outputs):
    with recorder.holding(outputs):
        held.wait()
        time.sleep(60)

held = threading.Barrier(3)
for outputs in ([(0, 3)], [(0, 4), (1, 0)]):
    threading.Thread(target=hold, args=(outputs,), daemon=True).start()
with recorder.holding([(9, 9)]):
    pass
held.wait()
print(recorder.folder, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_what_a_killed_process_held_is_read_back(end: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        folder = child.stdout.readline().strip()
        child.send_signal(end)
        assert child.wait(20) == -end
    assert read_recorder(folder) == {(0, 3), (0, 4), (1, 0)}


@pytest.mark.parametrize(
    "data",
    [
        b"\1",
        struct.pack("<q", 1),
        struct.pack("<qq", 1, 5),
        struct.pack("<q", -1),
        struct.pack("<q", 2**62),
        b"\xff" * 9,
    ],
)
def test_a_torn_file_says_that_nothing_is_known(data: bytes) -> None:
    recorder = Recorder()
    with recorder.holding([(0, 1)]):
        (recorder.folder / "other").write_bytes(data)
        assert held(recorder) is None


def test_a_thread_that_has_written_nothing_yet_holds_nothing() -> None:
    recorder = Recorder()
    (recorder.folder / "other").touch()
    assert held(recorder) == set()


def test_a_folder_that_is_gone_says_that_nothing_is_known(tmp_path: Path) -> None:
    assert read_recorder(str(tmp_path / "none")) is None


def test_old_folders_are_swept_and_young_ones_and_strangers_kept(own_folder: Path) -> None:
    long_ago = time.time() - 5 * 3600

    def made(name: str, *, old: bool, file_old: bool = True) -> Path:
        folder = own_folder / name
        folder.mkdir()
        (folder / "1").write_bytes(struct.pack("<q", 0))
        if file_old:
            os.utime(folder / "1", (long_ago, long_ago))
        if old:
            os.utime(folder, (long_ago, long_ago))
        return folder

    left_behind = made("pixgrad-recorder-old", old=True)
    empty = own_folder / "pixgrad-recorder-empty"
    empty.mkdir()
    os.utime(empty, (long_ago, long_ago))
    at_work = made("pixgrad-recorder-at-work", old=True, file_old=False)
    young = made("pixgrad-recorder-young", old=False)
    strange = made("something-else", old=True)
    mine = Recorder().folder
    assert not left_behind.exists() and not empty.exists()
    assert at_work.exists() and young.exists() and strange.exists() and mine.exists()
