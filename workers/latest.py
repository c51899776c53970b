"""What a device has said, without waiting for what it does now."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

LAG = 2
"""Steps that a GPU has queued behind the one whose flags are read."""


@dataclass(frozen=True)
class _Told:
    step: int
    flags: Tensor
    arrived: torch.cuda.Event


class Latest:
    """The places whose flags are set: on a CPU those of this step, on a GPU those of `LAG` steps ago."""

    def __init__(self) -> None:
        self._step = 0
        self._under_way: deque[_Told] = deque()
        self._since: dict[int, int] = {}

    def forget(self, places: Iterable[int]) -> None:
        """Flags told so far for `places` are no longer theirs."""
        self._since |= dict.fromkeys(places, self._step)

    def tell(self, flags: Tensor) -> list[int]:
        """Take the flags (B, bool) after a step; the places that are known to have theirs set."""
        step, self._step = self._step, self._step + 1
        if not flags.is_cuda:
            return _set(flags)
        copy = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True)
        copy.copy_(flags, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._under_way.append(_Told(step, copy, arrived))
        if len(self._under_way) <= LAG:
            return []
        told = self._under_way.popleft()
        told.arrived.synchronize()
        return [place for place in _set(told.flags) if told.step >= self._since.get(place, 0)]


def _set(flags: Tensor) -> list[int]:
    return flags.nonzero().flatten().tolist()
