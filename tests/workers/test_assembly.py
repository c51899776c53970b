"""The assembly line without Ray: real decoding, real shards, an engine whose faults are chosen."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from workers import assembly as assembly_module
from workers.assembly import Assembly, Item, Lot
from workers.codec import Pixels, encode_png
from workers.errors import ModelError, OutOfMemoryError
from workers.layout import shard_name
from workers.params import DeepDreamParams, ImageParams, ModelParams
from workers.recorder import read_recorder
from workers.records import Acked, Attempt, ImageRef, Output, Piece, Started, Variant
from workers.setup import BatchPlan, WorkerSetup
from workers.storage import LocalStore


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

    def stream(
        self, items: Sequence[Item], on_step: Callable[[], None], more: Callable[[int], Sequence[Item]]
    ) -> Iterator[Lot]:
        self.batches.append([item.output.image.uri for item in items])
        on_step()
        for item in items:
            if error := self.stumble(item):
                raise error
        yield [(item, Inverted(item.decoded.pixels)) for item in items]


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


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


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
    assert {row["shard_sha256"] for row in rows if row["status"] == "ok"} == {sha256_of(shard)}
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
    picture(place, "black.png", "black")
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


def test_outcomes_are_told_as_they_come_and_rows_when_there_are_all(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly_module, "ACK_SECONDS", 0.0)
    gates = {f"{i}.png": threading.Event() for i in range(3)}

    def wait(item: Item) -> None:
        gates[item.output.image.uri].wait(30)

    events = assembly(place, Inverter(1, wait)).process(attempt(list(gates)))
    assert next(events) == Started()
    for i, gate in enumerate(gates.values()):
        gate.set()
        assert next(events) == Acked((i,))
    [piece] = events
    assert isinstance(piece, Piece) and pq.read_table(io.BytesIO(piece.part)).num_rows == 3


class Greedy(Inverter):
    """Does one item at a time, and asks for another then."""

    def stream(
        self, items: Sequence[Item], on_step: Callable[[], None], more: Callable[[int], Sequence[Item]]
    ) -> Iterator[Lot]:
        self.batches.append([])
        line = list(items)
        while line:
            item = line.pop(0)
            self.batches[-1].append(item.output.image.uri)
            if error := self.stumble(item):
                raise error
            yield [(item, Inverted(item.decoded.pixels))]
            line += more(1)


def test_an_engine_with_room_gets_what_waits_of_whatever_attempt(place: Path) -> None:
    go, held = threading.Event(), list[frozenset[tuple[int, int]]]()
    places = {"0.png": (0, 0), "1.png": (0, 1), "2.png": (1, 0), "3.png": (1, 1)}

    def stumble(item: Item) -> Exception | None:
        go.wait(30)
        held.append(read_recorder(line.recorder) or frozenset())
        return RuntimeError("size mismatch") if item.output.image.uri == "3.png" else None

    engine = Greedy(1, stumble)
    line = assembly(place, engine)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(finish, line, attempt(["0.png", "1.png"]))
        second = pool.submit(finish, line, attempt(["2.png", "3.png"], unit=1))
        wait_until(lambda: line.pulse().ticks == 4)  # all are decoded
        go.set()
        rows = first.result(30)[1] + second.result(30)[1]
    assert [row["error_code"] for row in rows] == [None, None, None, "unexpected"]
    assert sorted(engine.batches[0]) == ["0.png", "1.png", "2.png", "3.png"], "all of them in one go"
    assert all(batch == ["3.png"] for batch in engine.batches[1:])
    order = [places[uri] for uri in engine.batches[0]]
    for i, those in enumerate(held[:4]):  # who was computed before may still be encoded
        assert order[i] in those and not those & set(order[i + 1 :]), "only what is under way can be to blame"


def test_a_seed_goes_with_the_output_wherever_it_stands(place: Path) -> None:
    seen: dict[str, set[int]] = {}

    def note(item: Item) -> None:
        seen.setdefault(item.output.image.uri, set()).add(item.seed)

    line = assembly(place, Inverter(2, note))
    rows = [
        *finish(line, attempt(["0.png", "1.png"]))[1],
        *finish(line, attempt(["2.png", "1.png", "0.png"], unit=1))[1],
    ]
    assert seen == {row["uri"]: {row["seed"]} for row in rows} and len(set(map(frozenset, seen.values()))) == 3


def test_equal_attempts_make_equal_shards(place: Path) -> None:
    line = assembly(place, Inverter(2))
    hashes = [finish(line, attempt(URIS, unit=unit))[1][0]["shard_sha256"] for unit in (1, 2)]
    assert hashes[0] == hashes[1]


def picture(place: Path, uri: str, colour: str) -> None:
    Image.new("RGB", (64, 64), colour).save(place / "photos" / uri)


def memory_runs_out(line: Assembly, work: Attempt) -> OutOfMemoryError:
    with pytest.raises(OutOfMemoryError) as caught:
        list(line.process(work))
    assert "\n" not in str(caught.value)
    return caught.value


def test_memory_that_runs_out_in_decoding_names_the_output(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, coffee = assembly_module.decode, (place / "photos" / "1.png").read_bytes()

    def hungry(data: bytes, params: ImageParams) -> Any:
        if data == coffee:
            raise MemoryError
        return decode(data, params)

    monkeypatch.setattr(assembly_module, "decode", hungry)
    line = assembly(place, Inverter(2))
    error = memory_runs_out(line, attempt(["0.png", "1.png", "2.png"]))
    assert error.indices == (1,) and "1.png" in str(error)
    assert memory_runs_out(line, attempt(["0.png", "1.png"], variants=("a", "b"))).indices in ((2,), (3,))
    monkeypatch.undo()
    assert [row["status"] for row in finish(line, attempt(["1.png"]))[1]] == ["ok"], "the line works on"


def test_memory_that_runs_out_in_computing_names_the_output_of_the_batch(place: Path) -> None:
    def stumble(item: Item) -> Exception | None:
        return MemoryError("no more") if item.output.image.uri == "2.png" else None

    engine = Inverter(4, stumble)
    line = assembly(place, engine)
    assert memory_runs_out(line, attempt(["0.png", "1.png", "2.png", "3.png"])).indices == (2,)
    assert list(map(len, engine.batches))[:1] == [4], "tried with its batch, then alone"
    partly = Attempt("f" * 16, 5, 0, (8, 9), attempt(["0.png", "2.png"]).outputs, (1, 2))
    assert memory_runs_out(line, partly).indices == (9,), "by its place in the unit"


def test_memory_that_runs_out_in_encoding_names_the_output(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(place, "white.png", "white")

    def hungry(self: Inverted) -> Any:
        if self.pixels.all():
            raise MemoryError
        return {"png": encode_png(self.pixels)}, {}

    monkeypatch.setattr(Inverted, "encode", hungry)
    picture(place, "black.png", "black")
    assert memory_runs_out(assembly(place, Inverter(1)), attempt(["black.png", "white.png"])).indices == (1,)


def test_memory_that_runs_out_over_the_shard_blames_no_output(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: Any) -> bytes:
        raise MemoryError

    monkeypatch.setattr(assembly_module, "encode_rows", hungry)
    assert memory_runs_out(assembly(place, Inverter(1)), attempt(["0.png"], unit=3)).indices == ()


def test_what_is_left_of_an_attempt_that_was_given_up_is_not_done(place: Path) -> None:
    given_up = threading.Event()

    def stumble(item: Item) -> Exception | None:
        if item.output.image.uri == "0.png":
            return ModelError("the style is gone")
        given_up.wait(30)
        return None

    engine = Inverter(1, stumble)
    line = assembly(place, engine)
    with pytest.raises(ModelError):
        list(line.process(attempt(["0.png", "1.png", "2.png", "3.png"])))
    given_up.set()
    finish(line, attempt(["3.png"], unit=1))
    assert engine.batches[0] == ["0.png"] and engine.batches[-1] == ["3.png"]
    assert len(engine.batches) <= 3, "at most what was being computed then"


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert holds()


@pytest.fixture
def slow_store(monkeypatch: pytest.MonkeyPatch) -> dict[str, threading.Event]:
    """A store in which the files of these names are waited for until their events are set."""
    gates: dict[str, threading.Event] = {}
    read, link = LocalStore.read, LocalStore._link

    def slow_read(self: LocalStore, name: str, *span: int) -> bytes:
        gates.get(name, opened).wait(30)
        return read(self, name, *span)

    def slow_link(staged: Path, target: Path) -> bool:
        gates.get(target.name, opened).wait(30)
        return link(staged, target)

    opened = threading.Event()
    opened.set()
    monkeypatch.setattr(LocalStore, "read", slow_read)
    monkeypatch.setattr(LocalStore, "_link", staticmethod(slow_link))
    return gates


def test_the_pulse_names_the_file_that_is_waited_for(place: Path, slow_store: dict[str, threading.Event]) -> None:
    work = attempt(["0.png"])
    shard = shard_name(work.unit, work.id)
    slow_store |= {"0.png": threading.Event(), Path(shard).name: threading.Event()}
    line = assembly(place, Inverter(1))
    assert (line.pulse().ticks, line.pulse().store) == (0, None)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(finish, line, work)
        wait_until(lambda: line.pulse().store == "0.png")
        assert line.pulse().ticks == 0, "nothing gets on"
        slow_store["0.png"].set()
        wait_until(lambda: line.pulse().store == shard)
        wait_until(lambda: line.pulse().ticks == 3)  # decoded, a step, encoded
        slow_store[Path(shard).name].set()
        assert waiting.result(30)[1][0]["status"] == "ok"
    assert (line.pulse().ticks, line.pulse().store) == (4, None)
    finish(line, attempt(["1.png", "torn.png"], unit=1))
    wait_until(lambda: line.pulse().ticks == 4 + 4 + 1)  # a bad image is progress too


def test_a_worker_that_computes_does_not_wait_for_the_store(
    place: Path, slow_store: dict[str, threading.Event]
) -> None:
    slow_store["1.png"] = threading.Event()
    computing, go = threading.Event(), threading.Event()

    def stumble(item: Item) -> Exception | None:
        computing.set()
        go.wait(30)
        return None

    line = assembly(place, Inverter(1, stumble))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(finish, line, attempt(["0.png", "1.png"]))
        computing.wait(30)
        assert line.pulse().store is None and read_recorder(line.recorder) == {(0, 0)}
        go.set()
        wait_until(lambda: line.pulse().store == "1.png")
        slow_store["1.png"].set()
        assert [row["status"] for row in waiting.result(30)[1]] == ["ok", "ok"]


def test_the_recorder_has_what_is_decoded_computed_and_encoded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, seen = assembly_module.decode, {}
    encode = Inverted.encode

    def watched_decode(data: bytes, params: ImageParams) -> Any:
        seen.setdefault("decode", read_recorder(line.recorder))
        return decode(data, params)

    def watched_encode(self: Inverted) -> Any:
        seen.setdefault("encode", read_recorder(line.recorder))
        return encode(self)

    def stumble(item: Item) -> Exception | None:
        seen.setdefault("compute", read_recorder(line.recorder))
        return None

    monkeypatch.setattr(assembly_module, "decode", watched_decode)
    monkeypatch.setattr(Inverted, "encode", watched_encode)
    line = assembly(place, Inverter(2, stumble))
    finish(line, attempt(["0.png"], variants=("a", "b"), unit=7))
    assert seen == {"decode": {(7, 0), (7, 1)}, "compute": {(7, 0), (7, 1)}, "encode": {(7, 0)}}
    assert read_recorder(line.recorder) == set()
