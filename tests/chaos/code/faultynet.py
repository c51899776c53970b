"""A small network for tests, and faults in the worker that loads it: what an image's name asks for really happens.

`<fault>@<stage>` in a file's name: at that stage, of decode, compute and encode, the worker's process meets the fault.
`<fault>-once@<stage>` happens only the first time, which a file in the folder FAULTS_FOLDER records.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
from torch import nn

_FAULT = re.compile(r"(\w{1,9}?)(-once)?@(decode|compute|encode)")


class Faulty(nn.Module):
    """Two convolutions with fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
            self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x).relu())


class Raising(Faulty):
    """Can't be built in a worker, only where it is described."""

    def __init__(self) -> None:
        super().__init__()
        if "ray" in sys.modules:
            raise RuntimeError("the network broke\nwith details")


def _spin() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")  # for ever, and nothing else of the process runs meanwhile


def _use_up_memory() -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, limits[1]))
    try:
        hoard = []
        while True:
            hoard.append(bytearray(2**22))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _raise() -> None:
    raise ValueError("a bug\nof the network")


FAULTS: dict[str, Callable[[], Any]] = {
    "exit": lambda: os._exit(7),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "hang": lambda: time.sleep(1e6),
    "spin": _spin,
    "memory": _use_up_memory,
    "raise": _raise,
    "slow": lambda: time.sleep(0.2),
}


def meet(name: str, stage: str) -> None:
    """Let the fault happen that a file's name asks for at this stage."""
    found = _FAULT.search(name)
    if not found or found[3] != stage:
        return
    if found[2]:
        try:
            (Path(os.environ["FAULTS_FOLDER"]) / f"{found[0]}-{zlib.crc32(name.encode())}.met").touch(exist_ok=False)
        except FileExistsError:
            return
    FAULTS[found[1]]()


def _set_up_faults() -> None:
    """Put the faults into this worker's stages. Decoding sees no names, so each image carries its own."""
    from workers import assembly, engine

    decode, stream = assembly.decode, engine.Engine.stream

    def faulty_decode(data: bytes, params: Any) -> Any:
        meet(data.decode("latin-1"), "decode")
        return decode(data, params)

    def faulty_stream(self: Any, items: Sequence[Any], on_step: Any, more: Any) -> Iterator[Any]:
        for item in items:
            meet(unquote(item.output.image.uri), "compute")
        for lot in stream(self, items, on_step, more):
            yield [(item, _Faulty(result, unquote(item.output.image.uri))) for item, result in lot]

    assembly.decode = faulty_decode
    engine.Engine.stream = faulty_stream


class _Faulty:
    """A result whose encoding meets the fault."""

    def __init__(self, result: Any, name: str):
        self._result, self._name, self.batch_shape = result, name, result.batch_shape

    def encode(self) -> Any:
        meet(self._name, "encode")
        return self._result.encode()


if "ray" in sys.modules:
    _set_up_faults()
