"""The Ray actor: builds its engine when it starts and runs attempts on it. The one module of workers that knows Ray.

No torch at module level: the driver imports this module to name the actor.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from workers.assembly import Assembly, Pulse
from workers.errors import PixgradError
from workers.last_words import output_files
from workers.records import Attempt, Event
from workers.setup import WorkerSetup, set_threads
from workers.storage import StorageError, is_remote, local_path, read_bytes

CONCURRENT_ATTEMPTS = 3
"""One attempt decodes, one computes, one encodes."""


class StartError(PixgradError):
    """A worker could not start; `details` is the traceback if the reason is none of the expected ones, else None."""

    def __init__(self, sentence: str, details: str | None):
        super().__init__(sentence)
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return StartError, (str(self), self.details)


@dataclass(frozen=True)
class Birth:
    """Where a worker came to life: its node, and there its flight recorder's folder and the files it prints to."""

    node: str
    recorder: str
    output: tuple[str, ...] = ()


class WorkerActor:
    """Loads the network once, then runs attempts, a few at a time so that decoding and encoding hide behind compute."""

    def __init__(self, setup: WorkerSetup, pictures: Mapping[str, Any] | None = None):
        """`pictures`: images of the job that only the driver's machine has, by URI, as Ray's references to bytes."""
        self._setup = setup
        self._pictures = pictures or {}
        self._assembly: Assembly | None = None

    def start(self, weights: Any) -> Birth:
        """Build the engine from the weights' bytes (a uint8 array). Raises StartError."""
        set_threads(self._setup.threads)
        try:
            _check_output(self._setup.output)
            from workers.engine import build_engine  # torch is loaded here, in the worker alone

            self._assembly = Assembly(self._setup, build_engine(self._setup, weights, self._read_picture))
        except PixgradError as error:
            raise StartError(str(error), None) from None
        except Exception as error:
            raise StartError(f"{type(error).__name__}: {error}", traceback.format_exc()) from None
        return Birth(ray.get_runtime_context().get_node_id(), self._assembly.recorder, output_files())

    def _read_picture(self, uri: str) -> bytes:
        return ray.get(self._pictures[uri]) if uri in self._pictures else read_bytes(uri)

    def process(self, attempt: Attempt) -> Iterator[Event]:
        """Run one attempt; yields what happens to it. Called concurrently, streamed."""
        assert self._assembly is not None, "start() comes first"
        yield from self._assembly.process(attempt)

    def pulse(self) -> Pulse:
        """How far the worker has got. Answered by a thread of its own while attempts run."""
        assert self._assembly is not None, "start() comes first"
        return self._assembly.pulse()


@dataclass(frozen=True)
class DeviceFacts:
    """What a worker's device is and can do."""

    device: str
    name: str
    memory: int
    bf16: bool
    torch: str


class ProbeActor:
    """Looks at the device of its process, where the workers will run. An actor, so that others see that it waits."""

    def device(self) -> DeviceFacts:
        """What the device is and can do."""
        return probe_device()


def remote_probe() -> Any:
    """The class of probes for Ray."""
    return ray.remote(max_restarts=2, max_task_retries=2)(ProbeActor)


def probe_device() -> DeviceFacts:
    """The facts of the device that this process was given."""
    import torch

    cuda = torch.cuda.is_available() and bool(os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        bf16 = torch.cuda.get_device_capability(0) >= (8, 0)
        return DeviceFacts("cuda", properties.name, properties.total_memory, bf16, torch.__version__)
    flags = _cpu_flags()
    bf16 = bool(flags & {"amx_bf16", "avx512_bf16"})
    return DeviceFacts("cpu", _cpu_name(), 0, bf16, torch.__version__)


def remote_actor() -> Any:
    """The actor class for Ray: a death is final and seen at once; what to do about it is the driver's policy."""
    final = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=CONCURRENT_ATTEMPTS + 1)  # pyright: ignore
    return final(WorkerActor)


def _check_output(output: str) -> None:
    """Raise StorageError if the run's folder is on a disk this node doesn't see: shards would end up here alone."""
    if not is_remote(output) and not Path(local_path(output)).is_dir():
        raise StorageError(
            f"A worker's node does not see the run's folder {output}: put output in an object store, or on a disk that "
            f"all nodes share."
        )


def _cpu_lines(key: str) -> list[str]:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return [line.split(":", 1)[1].strip() for line in file if line.startswith(key)]
    except OSError:
        return []


def _cpu_flags() -> set[str]:
    return set(next(iter(_cpu_lines("flags")), "").split())


def _cpu_name() -> str:
    return next(iter(_cpu_lines("model name")), "CPU")
