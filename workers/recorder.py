"""A worker's flight recorder: which outputs it has in hand, in files that outlive its process. No torch, no Ray.

A death says nothing about its cause, but the cause is almost always among the few outputs being decoded, computed or
encoded at that moment. A write reaches the kernel's page cache and so survives any end of the process.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

OutputIndex = tuple[int, int]
"""A unit and an index in it."""

_PREFIX = "pixgrad-recorder-"
_KEPT_SECONDS = 3600.0


class Recorder:
    """Records what each thread of this process has in hand, a file for each thread."""

    def __init__(self) -> None:
        _remove_old()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._local = threading.local()

    @contextmanager
    def holding(self, outputs: Sequence[OutputIndex]) -> Iterator[None]:
        """The calling thread works on these outputs in this block, unless `hold` says otherwise within."""
        self.hold(outputs)
        try:
            yield
        finally:
            self.hold(())

    def hold(self, outputs: Sequence[OutputIndex]) -> None:
        """The calling thread works on these outputs from now on."""
        numbers = (len(outputs), *(number for output in outputs for number in output))
        os.pwrite(self._file(), struct.pack(f"<{len(numbers)}q", *numbers), 0)

    def _file(self) -> int:
        if not hasattr(self._local, "descriptor"):
            self._local.descriptor = os.open(
                self.folder / str(threading.get_native_id()), os.O_CREAT | os.O_WRONLY, 0o600
            )
        return self._local.descriptor


def read_recorder(folder: str) -> frozenset[OutputIndex] | None:
    """What the process that recorded in `folder` had in hand last; None if that can't be known."""
    held: set[OutputIndex] = set()
    try:
        for file in Path(folder).iterdir():
            data = file.read_bytes()
            count = struct.unpack_from("<q", data)[0] if data else 0
            numbers = struct.unpack_from(f"<{2 * count}q", data, 8) if count else ()
            held.update(zip(numbers[::2], numbers[1::2], strict=True))
    except (OSError, struct.error):
        return None
    return frozenset(held)


def _remove_old() -> None:
    """Remove what processes of former runs left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _KEPT_SECONDS and not _in_use(folder):
                shutil.rmtree(folder)


def _in_use(folder: Path) -> bool:
    return any(time.time() - file.stat().st_mtime < _KEPT_SECONDS for file in folder.iterdir())
