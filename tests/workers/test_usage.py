"""What a process takes, and what it printed before it died."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers.last_words import TAIL_BYTES, last_words
from workers.usage import UsageMeter


def test_a_busy_process_takes_a_share_of_a_core_and_its_memory() -> None:
    meter = UsageMeter()
    ballast, began, before = bytearray(100 * 2**20), time.monotonic(), time.process_time()
    while time.process_time() - before < 0.3:
        pass
    usage = meter.read()
    spent = (time.process_time() - before) / (time.monotonic() - began)  # a busy machine gives less than a core
    assert usage.cpus == pytest.approx(spent, rel=0.3) and usage.memory > len(ballast)
    assert usage.gpu is None and usage.gpu_memory is None, "nothing here has begun to use a GPU"


def test_a_dead_process_has_its_last_words(tmp_path: Path) -> None:
    code = (
        "import os, sys; from workers.last_words import output_files; print(*output_files(), sep='\\n', flush=True)\n"
        "print(':job_id:01', 'x' * 9000, 'the end', sep='\\n', file=sys.stderr, flush=True); os._exit(9)"
    )
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=stderr, check=False)
    files = out.read_text().splitlines()
    assert files == [str(out), str(err)]
    words = last_words([*files, str(tmp_path / "gone")])
    assert words.startswith(str(out)) and words.endswith("x\nthe end") and len(words) < 2 * TAIL_BYTES
