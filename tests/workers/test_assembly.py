"""The assembly line without Ray: real decoding, real shards, an engine whose faults are chosen."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from workers.assembly import Assembly, Item, Result
from workers.codec import Pixels, encode_png
from workers.errors import ImageError, ModelError
from workers.params import DeepDreamParams, ImageParams, ModelParams
from workers.records import Acked, Attempt, ImageRef, Output, Piece, Started, Variant
from workers.setup import BatchPlan, WorkerSetup


@dataclass(frozen=True)
class Inverted:
    pixels: Pixels
    batch_shape: str = "1x3x64x64"

    def encode(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        if not self.pixels.any():
            raise OSError("the encoder broke")
        return {"png": encode_png(255 - self.pixels)}, {"iterations": 1}


class Inverter:
    """Inverts; stumbles over what `stumble` raises for, with its whole batch, as a network does."""

    def __init__(self, size: int, stumble: Callable[[Item], Exception | None] = lambda item: None):
        self.size = size
        self.stumble = stumble
        self.batches: list[list[str]] = []

    def batch_size(self, frame: tuple[int, int]) -> int:
        return self.size

    def run(self, items: Sequence[Item], on_step: Callable[[], None]) -> Sequence[Result | ImageError]:
        self.batches.append([item.output.image.uri for item in items])
        on_step()
        for item in items:
            if error := self.stumble(item):
                raise error
        return [Inverted(item.decoded.pixels) for item in items]


@pytest.fixture
def place(tmp_path: Path, photographs: dict[str, Path]) -> Path:
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(("chelsea", "coffee", "astronaut", "camera")):
        shutil.copy(photographs[name], tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "torn.png").write_bytes(photographs["coffee"].read_bytes()[:30_000])
    return tmp_path


def assembly(place: Path, engine: Inverter) -> Assembly:
    setup = WorkerSetup(
        task="deepdream",
        params=DeepDreamParams(),
        model=ModelParams(),
        min_side=1,
        categories=None,
        allow_code=False,
        images=ImageParams.model_validate({"frame": [64, 64]}),
        source_root=str(place / "photos"),
        source_columns=(),
        output=str(place / "run"),
        seed=7,
        device="cpu",
        precision="fp32",
        threads=2,
        batch=BatchPlan(images=engine.size, pixels=0, most=1),
    )
    return Assembly(setup, engine)


def attempt(uris: Sequence[str], variants: Sequence[str] = ("",), unit: int = 0) -> Attempt:
    outputs = tuple(Output(ImageRef(uri), Variant(v)) for uri in uris for v in variants)
    indices = tuple(range(len(outputs)))
    return Attempt(f"{unit:016x}", unit, 0, indices, outputs, (1,) * len(outputs))


def finish(line: Assembly, work: Attempt) -> tuple[Piece, list[dict[str, Any]]]:
    started, *acks, piece = line.process(work)
    assert started == Started() and isinstance(piece, Piece)
    acked = [i for ack in acks if isinstance(ack, Acked) for i in ack.indices]
    assert sorted(acked) == list(work.indices), "every output is acknowledged once"
    return piece, pq.read_table(io.BytesIO(piece.part)).to_pylist()


URIS = ["0.png", "1.png", "torn.png", "2.png", "gone.png", "3.png"]


def test_bad_images_become_rows_and_the_rest_a_shard(place: Path) -> None:
    engine = Inverter(4)
    piece, rows = finish(assembly(place, engine), attempt(URIS))
    assert [row["uri"] for row in rows] == URIS
    codes = {row["uri"]: row["error_code"] for row in rows if row["status"] == "failed"}
    assert codes == {"torn.png": "truncated", "gone.png": "missing"}
    assert piece.failures == {"truncated": 1, "missing": 1} and piece.seconds.keys() >= {"decode", "compute", "encode"}
    shard = place / "run" / rows[0]["shard"]
    with tarfile.open(shard) as tar:
        keys = [row["key"] for row in rows if row["status"] == "ok"]
        assert tar.getnames() == [f"{key}.{kind}" for key in keys for kind in ("png", "json")]
    assert sorted(map(len, engine.batches)) == [4], "one full batch"


def test_the_image_to_blame_fails_alone(place: Path) -> None:
    def stumble(item: Item) -> Exception | None:
        return RuntimeError("size mismatch") if item.output.image.uri == "1.png" else None

    _, rows = finish(assembly(place, Inverter(4, stumble)), attempt(["0.png", "1.png", "2.png", "3.png"]))
    assert {row["uri"]: row["error_code"] for row in rows} == {
        "0.png": None, "1.png": "unexpected", "2.png": None, "3.png": None,
    }  # fmt: skip
    assert "RuntimeError: size mismatch" in rows[1]["error"]


def test_an_encoder_that_breaks_fails_its_output(place: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(place / "photos" / "black.png")
    _, rows = finish(assembly(place, Inverter(2)), attempt(["0.png", "black.png"]))
    assert [row["error_code"] for row in rows] == [None, "unexpected"]


def test_a_fault_that_is_no_images_fails_the_attempt(place: Path) -> None:
    line = assembly(place, Inverter(4, lambda item: ModelError("the style is gone")))
    with pytest.raises(ModelError, match="the style is gone"):
        list(line.process(attempt(["0.png", "1.png"])))
    assert not list((place / "run").glob("shards/*"))


def test_an_attempt_of_bad_images_only_leaves_no_shard(place: Path) -> None:
    piece, rows = finish(assembly(place, Inverter(4)), attempt(["torn.png", "gone.png"]))
    assert all(row["shard"] is None for row in rows) and sum(piece.failures.values()) == 2
    assert not (place / "run" / "shards").exists()


def test_an_image_is_decoded_once_for_all_of_its_variants(place: Path) -> None:
    _, rows = finish(assembly(place, Inverter(3)), attempt(["0.png", "torn.png"], variants=("a", "b", "c")))
    assert [(row["uri"], row["variant"], row["status"]) for row in rows] == [
        *[("0.png", v, "ok") for v in "abc"],
        *[("torn.png", v, "failed") for v in "abc"],
    ]
    assert len({row["key"] for row in rows}) == 6 and len({row["seed"] for row in rows}) == 6


def test_attempts_share_batches_and_keep_their_own_rows(place: Path) -> None:
    engine = Inverter(4)
    line = assembly(place, engine)
    found: dict[int, list[dict[str, Any]]] = {}

    def work(unit: int) -> None:
        found[unit] = finish(line, attempt(["0.png", "1.png", "2.png", "3.png"][unit : unit + 2], unit=unit))[1]

    threads = [threading.Thread(target=work, args=(unit,)) for unit in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {unit: [row["uri"] for row in rows] for unit, rows in found.items()} == {
        unit: [f"{unit}.png", f"{unit + 1}.png"] for unit in range(3)
    }
    assert sum(map(len, engine.batches)) == 6


def test_equal_attempts_make_equal_shards(place: Path) -> None:
    line = assembly(place, Inverter(2))
    hashes = [finish(line, attempt(URIS, unit=unit))[1][0]["shard_sha256"] for unit in (1, 2)]
    assert hashes[0] == hashes[1]
