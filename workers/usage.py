"""What a worker takes of its machine: CPU, memory, and of its GPU what NVML tells. Loads no torch of its own accord."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True)
class Usage:
    """What a worker takes now: cores at work, bytes of memory; None without a GPU, or one that doesn't tell.

    `gpu` is the share of the last moments (a second or less) in which the device computed, from 0 to 1; `gpu_memory`
    the bytes taken on it, by whomever.
    """

    cpus: float
    memory: int
    gpu: float | None = None
    gpu_memory: int | None = None


class UsageMeter:
    """Measures the present process; CPU time since the last reading."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first one has nothing to compare with

    def read(self) -> Usage:
        """What is taken now. Asks NVML and not CUDA, which may have to wait for what the device does."""
        with self._process.oneshot():
            cpus, memory = self._process.cpu_percent() / 100, self._process.memory_info().rss
        return Usage(cpus, memory, *_device())


def _device() -> tuple[float | None, int | None]:
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None, None
    try:
        return torch.cuda.utilization() / 100, torch.cuda.device_memory_used()
    except Exception:  # a slice of a GPU (MIG), no driver library: each raises an error of its own
        return None, None
