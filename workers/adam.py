"""Adam for a batch of independent problems."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.descent import Descent

DECAY, DECAY_OF_SQUARES, EPSILON = 0.9, 0.999, 1e-8


class Adam(Descent):
    """Adam (Kingma and Ba, 2015, algorithm 1), each row with its own count of steps, projected onto the bounds.

    torch's has one count for all rows, and rows begin at different times.
    """

    def __init__(self, start: Tensor, *, learning_rate: float, **limits: Any):
        super().__init__(start, **limits)
        self._rate = learning_rate
        self._current = start.clone()
        self._mean = torch.zeros_like(start)
        self._square = torch.zeros_like(start)

    def begin(self, rows: Tensor, start: Tensor) -> None:
        """See `Descent`."""
        super().begin(rows, start)
        self._mean.masked_fill_(rows[:, None], 0)
        self._square.masked_fill_(rows[:, None], 0)

    def _trial(self) -> Tensor:
        count = (self.iterations + 1)[:, None].to(self._mean)
        mean = self._mean / (1 - DECAY**count)
        square = self._square / (1 - DECAY_OF_SQUARES**count)
        return self._current - self._rate * mean / (square.sqrt() + EPSILON)

    def _judge(self, trial: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        self._current = trial
        self._mean = torch.lerp(gradient, self._mean, DECAY)
        self._square = torch.lerp(gradient.square(), self._square, DECAY_OF_SQUARES)
        better = self._fresh | (loss < self._loss) & ~self.done
        self.point = torch.where(better[:, None], trial, self.point)
        self._loss = torch.where(better, loss, self._loss)
        return better
