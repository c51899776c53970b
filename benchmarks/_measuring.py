"""What the side-by-side benchmarks share: networks, a clock, and a line of a table."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from workers.description import prepare_model
from workers.features import Network
from workers.models import build_network
from workers.params import ModelParams


def load(name: str, dtype: torch.dtype = torch.float32) -> Network:
    """A network with its real weights."""
    prepared = prepare_model(ModelParams(name=name))
    return build_network(prepared.params, prepared.weights.read(), dtype=dtype)


def seconds(work: Callable[[], object]) -> float:
    """Of one run, the device's work included."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def row(what: str, measured: str, goal: str = "") -> None:
    """Print a line of a table."""
    print(f"{what:62}  {measured:58}  {goal}", flush=True)
