"""Joins or starts Ray, and looks at what it has. Knows Ray as `driver` does, which schedules on it."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if "RAY_ADDRESS" not in os.environ:  # Ray's name for it is odd: without it an embedded Ray listens on every interface
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # an attempt that is given up would print its traceback

import ray
from ray import exceptions as ray_errors
from ray._private import state as ray_state
from ray._private import worker as ray_worker
from ray.core.generated.gcs_pb2 import ActorTableData  # pyright: ignore[reportAttributeAccessIssue]

from pipeline.fairness import Demand
from pipeline.room import Patience
from workers.actor import DeviceFacts, remote_probe
from workers.errors import PixgradError, first_line

T = TypeVar("T")


class RunStopped(PixgradError):
    """The run can't go on now; what is committed stays, and the same command goes on later."""

    def __init__(self, sentence: str, exit_code: int):
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Resources:
    """What one worker takes, how many attempts are on it at a time, and how many workers there may be.

    CPUs are also its threads. `timeout`: seconds without any progress after which a worker at work counts as hung.
    `wait`: seconds to wait for a cluster that has no room for a single worker, None: as long as it takes.
    """

    cpus: int
    gpus: float
    depth: int
    min_workers: int
    max_workers: int | None
    timeout: float
    wait: float | None = None


@dataclass(frozen=True)
class Outlook:
    """A cluster as a run sees it at a moment.

    `room` is for so many workers of the run, whoever has it now, on nodes that stay; `draining` are the nodes that are
    to go away soon. `mine` and `others` are what this Ray job and each other one hold and ask for.
    """

    room: int
    draining: frozenset[str]
    job: str
    mine: Demand
    others: Mapping[str, Demand]

    @property
    def lacks_room(self) -> bool:
        """Whether workers are asked for and not a single one has a place."""
        return bool(self.mine.waiting) and not self.mine.held


def look(cpus: float, gpus: float) -> Outlook:
    """See how the cluster stands to workers of so many CPUs and GPUs."""
    draining = draining_nodes()
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["NodeID"] not in draining]
    demands = _demands("GPU" if gpus else "CPU", gpus or cpus or 1)
    job = ray.get_runtime_context().get_job_id()
    mine = demands.pop(job, Demand())
    return Outlook(sum(_fits(node, cpus, gpus) for node in nodes), draining, job, mine, demands)


def draining_nodes() -> frozenset[str]:
    """The nodes that were given notice, by a spot market or an autoscaler: they are to go away soon."""
    return frozenset(ray_state.state.get_draining_nodes())


def _fits(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    per_kind = [node.get(kind, 0) // amount for kind, amount in (("CPU", cpus), ("GPU", gpus)) if amount]
    return int(min(per_kind, default=0))


def _demands(kind: str, each: float) -> dict[str, Demand]:
    """What the actors of each Ray job hold and wait for of a resource, in multiples of `each`."""
    accessor = ray_state.state._connect_and_get_accessor()
    found: dict[str, Demand] = {}
    for state, waits in (("ALIVE", False), ("PENDING_CREATION", True)):
        for row in accessor.get_actor_table(None, state):
            actor = ActorTableData.FromString(row)
            amount = actor.required_resources.get(kind, 0) / each
            before = found.setdefault(actor.job_id.hex(), Demand())
            found[actor.job_id.hex()] = Demand(before.held + amount * (not waits), before.waiting + amount * waits)
    return found


def no_room(cpus: float, gpus: float) -> str:
    """A sentence about a cluster that has no room for a worker."""
    free = ray.available_resources()
    gpus_free = f"{gpus:g} GPUs ({ray.cluster_resources().get('GPU', 0):g} in the cluster, {free.get('GPU', 0):g} free)"
    wanted = f"{cpus:g} CPUs" + (f" and {gpus_free}" if gpus else "")
    return f"The cluster has no room yet for a worker of {wanted}."


@contextmanager
def cluster() -> Iterator[None]:
    """Ray for the block: the cluster at RAY_ADDRESS, one already joined, or an embedded one that ends with the block.

    Workers get a fresh folder as their working directory: the current one must not shadow our packages.
    """
    if ray.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="pixgrad-") as folder:
        _hush()
        inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        address = os.environ.get("RAY_ADDRESS", "local")
        try:
            ray.init(
                address=address,
                num_cpus=_cpus_left_to_us() if address == "local" else None,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=None if inside_job else {"working_dir": folder},
            )
        except Exception as error:  # Ray raises all kinds here, plain Exception too
            raise RunStopped(f"Can't reach or start Ray (RAY_ADDRESS={address}): {first_line(error)}", 4) from None
        try:
            yield
        finally:
            ray.shutdown()


def probe(
    gpus: float | None,
    wait: float | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[DeviceFacts, float, int]:
    """The device that workers will have, the GPUs and the CPUs of one worker.

    `gpus` None: one GPU if the cluster has any. Where they are taken, or come later, it waits for `wait` seconds (None:
    as long as it takes), says so with `say`, and ends when `stop` is set. Raises RunStopped if GPUs are asked for that
    the cluster can't have, or that don't come.
    """
    total = ray.cluster_resources()
    wanted = (1.0 if total.get("GPU", 0) else 0.0) if gpus is None else gpus
    if wanted and not total.get("GPU", 0) and "RAY_ADDRESS" not in os.environ:
        raise RunStopped(f"workers.gpus asks for {wanted:g} GPUs and this machine has none; set it to 0 or auto.", 2)
    if not wanted and not total.get("CPU", 0):
        raise RunStopped("The cluster has no CPUs, and no GPUs yet: set workers.gpus to 1 and workers.max.", 2)
    prober = remote_probe().options(num_cpus=0, num_gpus=wanted).remote()
    try:
        facts = _await_room(prober.device.remote(), wanted, Patience(wait), stop or threading.Event(), say)
    except ray_errors.RayError as error:
        raise RunStopped(f"A worker can't look at its device: {first_line(error)}", 4) from None
    finally:
        ray.kill(prober)
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0)]
    if wanted:
        shares = [int(n["CPU"] // max(1, n["GPU"] / wanted)) for n in nodes if n.get("GPU", 0)]
        return facts, wanted, max(1, min([8, *shares]))
    return facts, 0.0, max(1, min([4, *(int(n["CPU"]) for n in nodes)]))


def _await_room(
    answer: Any, gpus: float, patience: Patience, stop: threading.Event, say: Callable[[str], None]
) -> DeviceFacts:
    while not ray.wait([answer], timeout=0.5)[0]:
        now = time.monotonic()
        if stop.is_set():
            raise RunStopped("Interrupted.", 130)
        if patience.is_over(look(0, gpus).lacks_room, now):
            raise RunStopped(no_room(0, gpus), 4)
        if patience.is_time_to_say(now):
            say(no_room(0, gpus))
    return ray.get(answer)


def on_worker(
    function: Callable[..., Iterator[T]], resources: Resources, stop: threading.Event, *arguments: Any
) -> Iterator[T]:
    """What a generator gives, as it comes, as a task with the resources of a worker.

    Raises RunStopped if its process ends, or when `stop` is set.
    """
    options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_retries": 1}
    stream: Any = ray.remote(num_returns="streaming", **options)(function).remote(*arguments)
    try:
        while not stop.is_set():
            if ray.wait([stream], timeout=0.5, fetch_local=False)[0]:
                yield cast(T, ray.get(next(stream)))
    except StopIteration:
        return
    except ray_errors.RayError as error:
        raise RunStopped(f"The task {function.__name__} failed: {first_line(error)}", 4) from None
    ray.cancel(stream, force=True)
    raise RunStopped("Interrupted.", 130)


def check_room(resources: Resources) -> None:
    """Raise RunStopped if a worker fits no machine, and no more machines can come."""
    if "RAY_ADDRESS" in os.environ:
        return
    total = ray.cluster_resources()
    if total.get("CPU", 0) < resources.cpus or total.get("GPU", 0) < resources.gpus:
        raise RunStopped(
            f"A worker of this run takes {resources.cpus} CPUs and {resources.gpus:g} GPUs, more than there are here; "
            f"go on with the run on a machine like the one it began on, or begin another.",
            4,
        )


def _hush() -> None:
    """Ray prints a paragraph on stdout for each worker that dies, whatever it is told; our event log has a line."""
    if hasattr(ray_worker, "listen_error_messages"):
        ray_worker.listen_error_messages = lambda worker, threads_stopped: None


def _cpus_left_to_us() -> int | None:
    """The CPUs that this process may use where that is fewer than there are (taskset, Slurm); else Ray counts them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed if allowed != os.cpu_count() else None
