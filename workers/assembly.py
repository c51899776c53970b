"""A worker's assembly line: images are decoded ahead, computed in full batches across units, encoded behind. No torch.

One thread computes, alone, so that the device is never shared. Around it a pool decodes and another encodes. Each
attempt is drained by the thread that called `process`, which writes the shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from workers.batching import Batcher, Frame
from workers.codec import Decoded, decode
from workers.errors import DeviceError, ImageError, OutOfMemoryError, PixgradError
from workers.fetch import Fetcher
from workers.layout import shard_name
from workers.recorder import OutputIndex, Recorder
from workers.records import (
    Acked,
    Attempt,
    Event,
    Output,
    Piece,
    Started,
    encode_rows,
    failed_row,
    ok_row,
    output_seed,
    row_identity,
    row_schema,
)
from workers.setup import WorkerSetup
from workers.shards import ShardWriter, shard_writer
from workers.storage import open_store
from workers.usage import Usage, UsageMeter

ACK_SECONDS = 0.5
"""Outcomes are told to the driver in lots, this often."""


@dataclass(frozen=True)
class Pulse:
    """A worker's sign of life.

    `ticks` grows with all that gets on; `store` is the file that it waits for, if it computes nothing meanwhile;
    `usage` what it takes of its machine.
    """

    ticks: int
    store: str | None
    usage: Usage | None = None


class Result(Protocol):
    """What the engine made of one output."""

    @property
    def batch_shape(self) -> str:
        """The batch that it was computed in, as "8x3x256x256"."""
        ...

    def encode(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """The files of the shard by extension, the main one first, and the columns of the row."""
        ...


@dataclass(frozen=True, eq=False)
class Item:
    """One output for the engine, decoded."""

    output: Output
    decoded: Decoded
    seed: int


Lot = Sequence[tuple[Item, Result | ImageError]]
"""Results that are ready at the same time."""


class Engine(Protocol):
    """Computes batches of equal frames."""

    def batch_size(self, frame: Frame) -> int:
        """How many items make a batch."""
        ...

    def stream(
        self, items: Sequence[Item], on_step: Callable[[], None], more: Callable[[int], Sequence[Item]]
    ) -> Iterator[Lot]:
        """Each item's result, or the reason why there is none, as soon as there is one; all are of one frame.

        There is at most a batch of them; `more` gives up to so many others, as many as wait, once there is room.
        """
        ...


@dataclass
class _Ticket:
    """An attempt in the line: outcomes arrive in any order."""

    attempt: Attempt
    outcomes: queue.SimpleQueue[_Outcome | Exception] = field(default_factory=queue.SimpleQueue)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # one thread writes each key
    given_up: bool = False


@dataclass(frozen=True)
class _Place:
    """An output's place: the attempt and its position there."""

    ticket: _Ticket
    position: int

    @property
    def output(self) -> Output:
        return self.ticket.attempt.outputs[self.position]

    @property
    def index(self) -> OutputIndex:
        return self.ticket.attempt.unit, self.ticket.attempt.indices[self.position]

    def settle(self, outcome: _Made | ImageError) -> None:
        self.ticket.outcomes.put(_Outcome(self.position, outcome))

    def fail(self, error: Exception) -> None:
        """The output fails; an expected error that isn't the image's, such as a lost style, fails the attempt.

        So does memory that ran out: the driver tries again with nothing beside the output before it blames it.
        """
        if isinstance(error, MemoryError):
            name = self.output.image.uri
            self.ticket.outcomes.put(OutOfMemoryError(f"Memory ran out over {name}", (self.index[1],)))
        elif isinstance(error, PixgradError) and not isinstance(error, ImageError):
            self.ticket.outcomes.put(error)
        else:
            self.settle(error if isinstance(error, ImageError) else _unexpected(error))


@dataclass(frozen=True)
class _Image:
    """One image with its source's hash, decoded for all of its outputs."""

    decoded: Decoded
    sha256: str


_Load = tuple[_Place, _Image]


@dataclass(frozen=True)
class _InHand:
    """What the engine has in hand, since when, and with how many companions, itself included."""

    place: _Place
    image: _Image
    began: float
    companions: int


@dataclass(frozen=True)
class _Arrival:
    places: Sequence[_Place]
    image: _Image | None
    seconds: float


@dataclass(frozen=True)
class _Made:
    files: Mapping[str, bytes]
    columns: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class _Outcome:
    position: int
    what: _Made | ImageError


class Assembly:
    """Runs attempts, several at a time, on one engine."""

    def __init__(self, setup: WorkerSetup, engine: Engine):
        self._setup = setup
        self._engine = engine
        self._store = open_store(setup.output)
        self._schema = row_schema(setup.task, setup.source_columns)
        self._fetcher = Fetcher(setup.source_root, setup.images.max_bytes)
        self._recorder = Recorder()
        self._decoders = ThreadPoolExecutor(max(1, setup.threads // 2), "decode")
        self._encoders = ThreadPoolExecutor(max(1, setup.threads // 2), "encode")
        self._arrivals: queue.SimpleQueue[_Arrival | int] = queue.SimpleQueue()
        self._batcher: Batcher[_Load] = Batcher(engine.batch_size)
        self._awaited = 0
        self._ticks = 0
        self._computing = False
        self._in_store: dict[int, str] = {}
        self._meter = UsageMeter()
        threading.Thread(target=self._compute, name="compute", daemon=True).start()

    @property
    def recorder(self) -> str:
        """The folder of the flight recorder."""
        return str(self._recorder.folder)

    def pulse(self) -> Pulse:
        """How the line gets on. A thread of its own may ask."""
        waiting = [] if self._computing else list(self._in_store.values())
        return Pulse(self._ticks, waiting[0] if waiting else None, self._meter.read())

    def process(self, attempt: Attempt) -> Iterator[Event]:
        """Run one attempt; called by a thread of its own.

        Raises StorageError if the source's store fails or the shard can't be written, OutOfMemoryError, and ModelError
        if a style or guide is gone.
        """
        yield Started()
        ticket = _Ticket(attempt)
        images = _group_by_image(ticket)
        self._arrivals.put(len(images))
        for places in images:
            self._decoders.submit(self._decode, places)
        try:
            yield from self._drain(ticket)
        except MemoryError as error:  # something else on this worker has used it up
            raise OutOfMemoryError(f"Memory ran out over the shard of unit {attempt.unit}", ()) from error
        finally:
            ticket.given_up = True  # what of it is still in the line need not be done

    # -- decode ---------------------------------------------------------------------------------------------------

    def _decode(self, places: Sequence[_Place]) -> None:
        began = time.perf_counter()
        image = None
        try:
            if not places[0].ticket.given_up:
                image = self._fetch_and_decode(places)
        except Exception as error:
            for place in places:
                place.fail(error)
        finally:
            self._arrivals.put(_Arrival(places, image, time.perf_counter() - began))
            self._tick()

    def _fetch_and_decode(self, places: Sequence[_Place]) -> _Image:
        ref = places[0].output.image
        with self._waiting_for(ref.uri):
            data = self._fetcher.fetch(ref)
        with self._recorder.holding([place.index for place in places]):
            return _Image(decode(data, self._setup.images), hashlib.sha256(data).hexdigest())

    @contextmanager
    def _waiting_for(self, name: str) -> Iterator[None]:
        """The calling thread waits for the store in this block."""
        thread = threading.get_ident()
        self._in_store[thread] = name
        try:
            yield
        finally:
            del self._in_store[thread]

    # -- compute --------------------------------------------------------------------------------------------------

    def _compute(self) -> None:
        try:
            while True:
                self._receive(self._arrivals.get())
                while batch := self._next_batch():
                    self._computing = True
                    self._run(batch)
                    self._computing = False
        except BaseException:  # without this thread nothing would ever end: let the driver see a death
            traceback.print_exc()
            os._exit(1)

    def _next_batch(self) -> list[_Load] | None:
        self._receive_all()
        return self._batcher.take(partial=self._awaited == 0)

    def _receive_all(self) -> None:
        while not self._arrivals.empty():
            self._receive(self._arrivals.get())

    def _receive(self, arrival: _Arrival | int) -> None:
        if isinstance(arrival, int):
            self._awaited += arrival
            return
        self._awaited -= 1
        arrival.places[0].ticket.seconds["decode"] += arrival.seconds
        if arrival.image is not None:
            for place in arrival.places:
                self._batcher.add(arrival.image.decoded.frame, (place, arrival.image))

    def _run(self, loads: Sequence[_Load]) -> None:
        in_hand: dict[Item, _InHand] = {}
        batch = self._take_up(loads, in_hand)
        if not batch:
            return
        more = partial(self._more, in_hand, batch[0].decoded.frame)
        try:
            with self._recorder.holding(_indices(in_hand)):
                for lot in self._engine.stream(batch, self._tick, more):
                    done = [(in_hand.pop(item), item, result) for item, result in lot]
                    self._recorder.hold(_indices(in_hand))
                    for one, item, result in done:
                        self._settle(one, item, result)
        except DeviceError:
            raise
        except Exception as error:
            if len(in_hand) == 1 or isinstance(error, PixgradError):
                for one in in_hand.values():
                    one.place.fail(error)
            else:  # one of them is to blame: it fails alone
                for one in in_hand.values():
                    self._run([(one.place, one.image)])

    def _take_up(self, loads: Sequence[_Load], in_hand: dict[Item, _InHand]) -> list[Item]:
        """The items of what is still wanted, from now on in hand."""
        wanted = [(place, image) for place, image in loads if not place.ticket.given_up]
        items = [Item(p.output, image.decoded, output_seed(self._setup.seed, p.output.key)) for p, image in wanted]
        held, began = len(in_hand) + len(items), time.perf_counter()
        in_hand |= {
            item: _InHand(place, image, began, held) for item, (place, image) in zip(items, wanted, strict=True)
        }
        return items

    def _more(self, in_hand: dict[Item, _InHand], frame: Frame, most: int) -> list[Item]:
        """Further items of a frame for an engine with room; none once a batch of another frame is full."""
        self._receive_all()
        items = self._take_up(self._batcher.take_more(frame, most), in_hand)
        if items:
            self._recorder.hold(_indices(in_hand))
        return items

    def _settle(self, one: _InHand, item: Item, result: Result | ImageError) -> None:
        seconds = (time.perf_counter() - one.began) / one.companions
        one.place.ticket.seconds["compute"] += seconds
        if isinstance(result, ImageError):
            one.place.settle(result)
        else:
            self._encoders.submit(self._encode, one.place, one.image, item, result, seconds)

    def _tick(self) -> None:
        self._ticks += 1

    # -- encode ---------------------------------------------------------------------------------------------------

    def _encode(self, place: _Place, image: _Image, item: Item, result: Result, seconds: float) -> None:
        began = time.perf_counter()
        try:
            with self._recorder.holding([place.index]):
                files, columns = result.encode()
            main, data = next(iter(files.items()))
            decoded = image.decoded
            fields = {
                "source_width": decoded.source_width,
                "source_height": decoded.source_height,
                "width": decoded.frame[1],
                "height": decoded.frame[0],
                "transform": list(decoded.transform),
                "source_sha256": image.sha256,
                "shard_member": f"{item.output.key}.{main}",
                "output_sha256": hashlib.sha256(data).hexdigest(),
                "batch_shape": result.batch_shape,
                "seconds": seconds,
                **columns,
            }
            place.settle(_Made(files, fields, time.perf_counter() - began))
        except Exception as error:
            place.fail(error)
        finally:
            self._tick()

    # -- write ----------------------------------------------------------------------------------------------------

    def _drain(self, ticket: _Ticket) -> Iterator[Event]:
        attempt = ticket.attempt
        name = shard_name(attempt.unit, attempt.id)
        rows: list[dict[str, Any]] = []
        settled: dict[int, _Made | ImageError] = {}
        with ExitStack() as stack:
            shard: ShardWriter | None = None
            while len(rows) < len(attempt.outputs):
                acked = _lot(ticket.outcomes, len(attempt.outputs) - len(rows) - len(settled))
                settled.update((o.position, o.what) for o in acked)
                while len(rows) in settled:  # in the order of the attempt, whatever order they arrive in
                    position, what = len(rows), settled.pop(len(rows))
                    rows.append(self._row(attempt, position, what, name))
                    if isinstance(what, _Made):
                        ticket.seconds["encode"] += what.seconds
                        with self._waiting_for(name):
                            shard = shard or stack.enter_context(shard_writer(self._store, name))
                            shard.add(rows[-1]["key"], {**what.files, "json": _sample_json(rows[-1])})
                yield Acked(tuple(attempt.indices[o.position] for o in acked))
            sha256 = shard.close() if shard else None
            with self._waiting_for(name):
                stack.close()
        self._tick()
        for row in rows:
            if row["status"] == "ok":
                row["shard_sha256"] = sha256
        failures = Counter(row["error_code"] for row in rows if row["status"] == "failed")
        yield Piece(attempt.indices, encode_rows(rows, self._schema), dict(failures), dict(ticket.seconds))

    def _row(self, attempt: Attempt, position: int, what: _Made | ImageError, shard: str) -> dict[str, Any]:
        identity = row_identity(
            attempt.outputs[position],
            unit=attempt.unit,
            round=attempt.round,
            attempts=attempt.tries[position],
            run_seed=self._setup.seed,
        )
        if isinstance(what, ImageError):
            return failed_row(identity, what.code, str(what))
        return ok_row(identity, {**what.columns, "shard": shard})


def _indices(in_hand: Mapping[Item, _InHand]) -> list[OutputIndex]:
    return [one.place.index for one in in_hand.values()]


def _unexpected(error: Exception) -> ImageError:
    reason = " ".join(str(error).split())[:300]
    return ImageError("unexpected", f"Processing this output failed with {type(error).__name__}: {reason}")


def _lot(outcomes: queue.SimpleQueue[_Outcome | Exception], at_most: int) -> list[_Outcome]:
    """At least one outcome, and those that follow it within `ACK_SECONDS`, up to `at_most`. Raises what it finds."""
    lot: list[_Outcome] = []
    until = None
    while len(lot) < at_most:
        try:
            outcome = outcomes.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(outcome, Exception):
            raise outcome
        lot.append(outcome)
        until = until or time.monotonic() + ACK_SECONDS
    return lot


def _group_by_image(ticket: _Ticket) -> list[list[_Place]]:
    groups: dict[tuple[str, str | None], list[_Place]] = {}
    for position, output in enumerate(ticket.attempt.outputs):
        groups.setdefault((output.image.uri, output.image.member), []).append(_Place(ticket, position))
    return list(groups.values())


def _sample_json(row: Mapping[str, Any]) -> bytes:
    left_out = {"shard", "shard_member", "unit", "round", "attempts", "seconds", "status"}
    return json.dumps({k: v for k, v in row.items() if k not in left_out}, default=str, sort_keys=True).encode()
