"""One driver at a time: a driver claims the run by creating the next `drivers/<epoch>.json` and keeps it fresh.

A claim that was given up, has been silent for a minute, or whose process on this machine is gone is superseded by
the next epoch. The claim keeps two drivers from working at cross purposes; that no unit is committed twice doesn't hang
on it.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from workers.errors import PixgradError
from workers.layout import driver_name
from workers.storage import StorageError, Store

SILENCE = 60.0
"""Seconds without a sign of life after which a driver is taken for dead."""

HEARTBEAT = 10.0


class RunBusyError(PixgradError):
    """Another live driver works on the run."""

    exit_code = 5


@dataclass(frozen=True)
class Claim:
    """A driver's claim: who it is, when it last gave a sign of life (seconds since 1970), and how it ended."""

    epoch: int
    host: str
    boot: str
    pid: int
    process_started: float
    started: float
    seen: float
    exit_code: int | None = None

    def encode(self) -> bytes:
        """As the content of its file."""
        return json.dumps(asdict(self), indent=1).encode()


class Tenure:
    """The present process's time as the driver of a run: a claim with a heartbeat, given up at the end.

    `superseded` is set once another driver has claimed the run, having taken this one for dead.
    """

    def __init__(self, store: Store, claim: Claim):
        self._store = store
        self.claim = claim
        self.superseded = threading.Event()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    def release(self, exit_code: int) -> None:
        """Give the run up; the next driver need not wait."""
        self._ended.set()
        self._heart.join()
        self._write(exit_code)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            self._write(None)
            if self._has_successor():
                self.superseded.set()

    def is_superseded(self) -> bool:
        """Whether another driver has the run now."""
        return self.superseded.is_set() or self._has_successor()

    def _has_successor(self) -> bool:
        try:
            return self._store.exists(driver_name(self.claim.epoch + 1))
        except StorageError:
            return False

    def _write(self, exit_code: int | None) -> None:
        try:
            claim = replace(self.claim, seen=time.time(), exit_code=exit_code)
            self._store.replace(driver_name(claim.epoch), claim.encode())
        except StorageError:
            pass  # a heartbeat may be missed; the store's real failures surface where it matters


def take_over(store: Store) -> Tenure:
    """Claim the run for this process.

    Raises RunBusyError while another driver is alive, StorageError if the store can't keep two drivers apart.
    """
    last = latest_claim(store)
    if last and is_alive(last):
        raise RunBusyError(
            f"Another driver (process {last.pid} on {last.host}) is working on {store.url}; "
            f"wait for it, stop it, or choose another output."
        )
    now = time.time()
    claim = Claim(
        epoch=last.epoch + 1 if last else 0,
        host=socket.gethostname(),
        boot=_boot_id(),
        pid=psutil.Process().pid,
        process_started=psutil.Process().create_time(),
        started=now,
        seen=now,
    )
    if not store.create(driver_name(claim.epoch), claim.encode()):
        raise RunBusyError(f"Another driver started on {store.url} at the same moment; this one gives way.")
    store.check_create(driver_name(claim.epoch))
    return Tenure(store, claim)


def latest_claim(store: Store) -> Claim | None:
    """The claim of the latest epoch, or None on a fresh run."""
    names = sorted(e.name for e in store.list("drivers") if e.name.endswith(".json"))
    if not names:
        return None
    try:
        return Claim(**json.loads(store.read(names[-1])))
    except (ValueError, TypeError) as error:
        where = f"{store.url}/{names[-1]}"
        raise PixgradError(f"{where} is damaged ({error}); delete it if no driver is at work.") from None


def is_alive(claim: Claim, now: float | None = None) -> bool:
    """Whether the driver of a claim still works, as far as can be told from here."""
    if claim.exit_code is not None:
        return False
    if claim.host == socket.gethostname() and claim.boot == _boot_id() and not _same_process(claim):
        return False
    return (time.time() if now is None else now) - claim.seen < SILENCE


def _same_process(claim: Claim) -> bool:
    try:
        return abs(psutil.Process(claim.pid).create_time() - claim.process_started) < 1.0
    except psutil.NoSuchProcess:
        return False


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(psutil.boot_time())
