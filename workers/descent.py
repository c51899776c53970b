"""Descents of a batch of independent problems: one row, one problem, and no row ever looks at another.

A row that is done can be given another problem while its companions go on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps points (B x n) to their losses (B) and the gradients of the losses (B x n)."""

PATIENCE = 10
"""Iterations over which a loss must fall by the share `plateau`, or the row is done."""


class Descent(ABC):
    """Minimises B problems of n variables in [lower, upper], one evaluation of them all a step.

    A row's first step evaluates its start, each further one is an iteration. It is done after `iterations` of them, or
    when `PATIENCE` of them lower its loss by less than the share `plateau`, and stays as it is from then on. Losses are
    scaled within, so that their units don't matter. Nothing waits for the device.

    `point` (B x n) is the best point seen of each row, `iterations` (B, int64) those it has taken, `done` (B, bool)
    whether it is done.
    """

    def __init__(
        self,
        start: Tensor,
        *,
        iterations: int,
        plateau: float = 0.0,
        lower: float = float("-inf"),
        upper: float = float("inf"),
    ):
        self.point = start.clone()
        self.iterations = torch.zeros(len(start), dtype=torch.long, device=start.device)
        self.done = torch.zeros_like(self.iterations, dtype=torch.bool)
        self._most = iterations
        self._share = plateau
        self._lower = lower
        self._upper = upper
        self._fresh = ~self.done
        self._any_fresh = True  # as the host knows without asking the device
        self._loss = start.new_zeros(len(start))
        self._before = self._loss
        self._unit = torch.ones_like(self._loss)

    @property
    def loss(self) -> Tensor:
        """The loss at `point` (B), of rows that have taken their first step."""
        return self._loss * self._unit

    def begin(self, rows: Tensor, start: Tensor) -> None:
        """Give `rows` (B, bool) new problems, which begin at theirs of `start` (B x n)."""
        self.point = torch.where(rows[:, None], start, self.point)
        self.iterations = self.iterations.masked_fill(rows, 0)
        self.done = self.done & ~rows
        self._fresh = self._fresh | rows
        self._any_fresh = True

    def step(self, objective: Objective) -> Tensor:
        """Evaluate the objective once; whether each row's `point` is now the one just evaluated (B, bool)."""
        trial = torch.where(self._fresh[:, None], self.point, self._trial().clamp(self._lower, self._upper))
        loss, gradient = objective(trial)
        if self._any_fresh:
            self._unit = torch.where(self._fresh, _unit(gradient), self._unit)
        taken = self._judge(trial, loss / self._unit, gradient / self._unit[:, None])
        self._watch()
        return taken

    @abstractmethod
    def _trial(self) -> Tensor:
        """The points to evaluate next (B x n), of rows that aren't fresh."""

    @abstractmethod
    def _judge(self, trial: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        """Take the trial into account, and whether it is the best of its row (B, bool); a fresh row's always is."""

    def _watch(self) -> None:
        self.iterations = self.iterations + ~(self.done | self._fresh)
        if self._share:
            due = ~self._fresh & (self.iterations % PATIENCE == 0)
            self.done = self.done | due & ~(self._loss < (1 - self._share) * self._before)
            self._before = torch.where(self._fresh | due, self._loss, self._before)
        self.done = self.done | (self.iterations >= self._most)
        self._fresh = torch.zeros_like(self._fresh)
        self._any_fresh = False


def _unit(gradient: Tensor) -> Tensor:
    """A unit for the losses of each row (B), a power of two, in which the gradient's largest element is 1 to 2.

    In it squares and products of gradients neither overflow nor vanish, and no bit depends on the units of the losses.
    """
    largest = gradient.abs().amax(1)
    usable = largest.isfinite() & (largest > 0)
    exponent = torch.where(usable, largest, 1).frexp().exponent - 1
    return torch.ldexp(torch.ones_like(largest), exponent)
