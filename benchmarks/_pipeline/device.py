"""How busy a worker keeps its device: the real assembly line around a device that only takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks._pipeline.collections import UNIT, write_photographs
from benchmarks._pipeline.fake_actors import worker_setup
from benchmarks._pipeline.table import Row
from workers.actor import CONCURRENT_ATTEMPTS
from workers.assembly import Assembly, Item, Lot
from workers.batching import Frame
from workers.codec import Pixels, decode, encode_png
from workers.params import ImageParams
from workers.records import Attempt, ImageRef, Output, Variant
from workers.setup import WorkerSetup

SIZE = (1024, 768)
BATCH = 8
SECONDS = 0.150
GOAL = 0.95
SHORT_SIDES = (256, 768)
"""What a job has by default; and the photographs as large as they are."""

_SAMPLE = 32


def device_rows(folder: Path, units: int, threads: int) -> Iterator[Row]:
    """The share of time for which the device is busy, and what the machine's cores can decode and encode."""
    photographs = folder / "photographs"
    write_photographs(photographs, [SIZE] * UNIT)
    setup = worker_setup("to be said", threads)
    for short_side in SHORT_SIDES:
        images = ImageParams.model_validate({"short_side": short_side})
        own = replace(setup, images=images, source_root=str(photographs), output=str(folder / f"run-{short_side}"))
        height, width = decode((photographs / "0000.jpg").read_bytes(), images).frame
        busy, rate = _run(own, units)
        what = f"fake device, {BATCH} JPEGs of {SIZE[0]} x {SIZE[1]} in {1000 * SECONDS:.0f} ms, to {width} x {height}"
        yield Row(what, f"busy {busy:.2f} of the time, {rate:.0f} images/s", f"{GOAL} busy", busy >= GOAL)
        decoding, encoding = _cost(photographs, images)
        most = threads / (decoding + encoding)
        both = f"decode {1000 * decoding:.1f} ms + encode {1000 * encoding:.1f} ms an image"
        yield Row(f"  {threads} cores at best", f"{both}: {most:.0f} images/s for {BATCH / SECONDS:.0f}")


@dataclass(frozen=True)
class _Result:
    pixels: Pixels
    batch_shape: str

    def encode(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        return {"png": encode_png(self.pixels)}, {}


class _Device:
    """Takes as long for a batch as a GPU would, and leaves the pictures as they are."""

    def __init__(self) -> None:
        self.runs: list[tuple[float, float]] = []

    def batch_size(self, frame: Frame) -> int:
        return BATCH

    def stream(
        self, items: Sequence[Item], on_step: Callable[[], None], more: Callable[[int], Sequence[Item]]
    ) -> Iterator[Lot]:
        began = time.perf_counter()
        time.sleep(SECONDS)
        self.runs.append((began, time.perf_counter()))
        yield [(item, _Result(item.decoded.pixels, f"{BATCH}")) for item in items]

    def busy(self, since: float, until: float) -> float:
        """The share of a time for which it ran."""
        return sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in self.runs) / (until - since)


def _run(setup: WorkerSetup, units: int) -> tuple[float, float]:
    """Attempts as an actor has them, several at a time; the device's busy share, and images a second.

    Counted from the end of the first attempt to that after which no other begins: the line is as full then as before.
    """
    device = _Device()
    line = Assembly(setup, device)
    ends: list[float] = []

    def work(unit: int) -> None:
        list(line.process(_attempt(unit)))
        ends.append(time.perf_counter())

    with ThreadPoolExecutor(CONCURRENT_ATTEMPTS) as attempts:
        list(attempts.map(work, range(units)))
    steady = ends[: units - CONCURRENT_ATTEMPTS + 1]
    seconds = steady[-1] - steady[0]
    return device.busy(steady[0], steady[-1]), (len(steady) - 1) * UNIT / seconds


def _attempt(unit: int) -> Attempt:
    outputs = tuple(Output(ImageRef(f"{i:04d}.jpg"), Variant(f"{unit}")) for i in range(UNIT))
    return Attempt(f"{unit:016x}", unit, 0, tuple(range(UNIT)), outputs, (1,) * UNIT)


def _cost(folder: Path, images: ImageParams) -> tuple[float, float]:
    """Seconds of one core to decode one photograph and to encode it."""
    files = [path.read_bytes() for path in sorted(folder.iterdir())[:_SAMPLE]]
    began = time.thread_time()
    pixels = [decode(data, images).pixels for data in files]
    decoded = time.thread_time()
    for each in pixels:
        encode_png(each)
    return (decoded - began) / len(files), (time.thread_time() - decoded) / len(files)
