"""Damaged and awkward files end in a picture or in a refusal with its code, in silence and in bounded memory."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.codec import decode
from workers.errors import ImageError
from workers.params import ImageParams

pytestmark = pytest.mark.filterwarnings("ignore::Warning:PIL")  # pytest resets the codec's own filter

SCRIPT = Path(__file__).parents[1] / "damage.py"
MUTATIONS = 2500
WHOLE = ImageParams(short_side=4096, snap=1, frame=None)
LIBTIFF = re.compile(r"[\w.]+: ")  # which writes to the terminal past everybody


@pytest.fixture(scope="module")
def awkward(load_helper: Callable[[str], SimpleNamespace]) -> SimpleNamespace:
    return load_helper("awkward")


@pytest.fixture(scope="module")
def damage(load_helper: Callable[[str], SimpleNamespace]) -> SimpleNamespace:
    return load_helper("damage")


@pytest.fixture(scope="module")
def seeds(awkward: SimpleNamespace) -> dict[str, bytes]:
    return awkward.seed_files()


def result_of(data: bytes, images: ImageParams) -> str:
    try:
        decode(data, images)
    except ImageError as error:
        return error.code
    return "ok"


def test_every_awkward_file_ends_as_it_should(awkward: SimpleNamespace, damage: SimpleNamespace) -> None:
    images = ImageParams.model_validate(awkward.IMAGES)
    files = awkward.awkward_files()
    held = damage.peak_memory()
    found = {name: result_of(data, images) for name, (data, _) in files.items()}
    assert {name: code for name, code in found.items() if code not in files[name][1].split()} == {}
    assert damage.peak_memory() - held < 500 * 2**20
    assert len(files) > 300 and set(found.values()) >= {"ok", "corrupt", "truncated", "unsupported", "too_large"}


def test_a_limit_holds_whatever_limit_the_process_had_before(awkward: SimpleNamespace) -> None:
    decode(awkward.encoded(awkward.PHOTO, "PNG"), ImageParams.model_validate({"max_pixels": 10**9}))
    bombs = {name: data for name, (data, code) in awkward.awkward_files().items() if code == "too_large"}
    assert len(bombs) > 8
    for data in bombs.values():
        with pytest.raises(ImageError, match=r"max_pixels \(50000000\)"):
            decode(data, ImageParams.model_validate(awkward.IMAGES))


def test_what_is_not_read_is_told_from_what_is_damaged(awkward: SimpleNamespace) -> None:
    with pytest.raises(ImageError, match="is a TIFF of compression 999, which isn't read: convert it"):
        decode(awkward.tiff({259: 999}), WHOLE)
    with pytest.raises(ImageError, match="has no data for some of the picture"):
        decode(awkward.tiff({322: 16, 323: 16, 324: (8, 264), 325: (256, 256)}), WHOLE)
    assert decode(awkward.tiled_tiff(), WHOLE).pixels.shape == (64, 64, 3)
    assert (decode(awkward.interlaced_png(), WHOLE).pixels == np.asarray(awkward.PHOTO)).all()


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chance=st.randoms())
def test_any_damage_ends_in_a_picture_or_a_refusal(
    seeds: dict[str, bytes], damage: SimpleNamespace, chance: random.Random
) -> None:
    assert damage.outcome(damage.mutate(list(seeds.values()), chance))


def test_damage_shows_no_foreign_memory_and_is_not_talked_about(seeds: dict[str, bytes], tmp_path: Path) -> None:
    """In processes of their own, in the second of which memory that nobody has written to holds another value."""
    for name, data in seeds.items():
        (tmp_path / name).write_bytes(data)
    first, second = decode_mutations(tmp_path), decode_mutations(tmp_path, MALLOC_PERTURB_="170")
    assert first.returncode == second.returncode == 0, first.stderr[-2000:] + second.stderr[-2000:]
    assert first.stdout == second.stdout
    assert [line for line in first.stderr.splitlines() if not LIBTIFF.match(line)] == []


def decode_mutations(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(SCRIPT), str(folder), "0", str(MUTATIONS)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
