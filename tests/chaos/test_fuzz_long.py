"""The decoders under damage for minutes, each lot in a process of its own, so that one that dies is seen."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[1] / "damage.py"
SECONDS = 90
LOT = 10_000


@pytest.mark.long
@pytest.mark.timeout(2 * SECONDS)
def test_no_damage_ends_the_decoder(
    tmp_path: Path, load_helper: Callable[[str], SimpleNamespace], photographs: Mapping[str, Path]
) -> None:
    """FUZZ_FIRST, the number of the first mutation, repeats what a failure has printed."""
    for name, data in load_helper("awkward").seed_files().items():
        (tmp_path / name).write_bytes(data)
    shutil.copy(photographs["rocket"], tmp_path)
    first = number = int(os.environ.get("FUZZ_FIRST", secrets.randbelow(2**40)))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        plain, perturbed = decode_lot(tmp_path, number), decode_lot(tmp_path, number, MALLOC_PERTURB_="170")
        assert plain == perturbed, f"memory that nobody wrote to is in a picture, FUZZ_FIRST={number}"
        number += LOT
    print(f"\n{number - first} mutations from FUZZ_FIRST={first}, each decoded twice")


def decode_lot(folder: Path, first: int, **environment: str) -> str:
    """The hash of what came of a lot; fails if the process does, with the file that it died of."""
    command = [sys.executable, "-P", str(SCRIPT), str(folder), str(first), str(LOT)]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    how = f"exit code {ended.returncode}, FUZZ_FIRST={first}, the file is {folder / '.current'}"
    assert ended.returncode == 0, f"{how}\n{ended.stderr[-2000:]}"
    return ended.stdout
