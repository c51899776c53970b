"""L-BFGS for a batch of independent problems."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.descent import Descent

FIRST_STEP = 0.05
MAX_STEP = 0.25
"""Root mean square lengths of a first step and of the longest step, for variables that live in [0, 1]."""

CURVATURE = 1e-8
"""A pair is used if the cosine of the angle between its step and its change of gradient is above this."""


class Lbfgs(Descent):
    """Limited-memory BFGS with products, scaling, `history` pairs and a trust radius of each row alone.

    The direction is Nocedal and Wright's two-loop recursion (Numerical Optimization, algorithm 7.4) over the variables
    that no bound holds back (the two-metric projection of Bertsekas, 1982); the step is cut to the trust radius and
    projected onto the bounds. There is no line search. A row whose loss rose, or isn't finite, stays where it was with
    a quarter of the radius; its evaluation still teaches it the curvature on the way. If that fails too, it forgets its
    history. So a loss never ends above its start.
    """

    def __init__(self, start: Tensor, *, history: int = 10, **limits: Any):
        super().__init__(start, **limits)
        self._gradient = torch.zeros_like(start)
        self._radius = torch.full_like(self._loss, FIRST_STEP)  # root mean square
        self._rejected = torch.zeros_like(self.done)  # whether the last trial was
        self._scale = torch.zeros_like(self._loss)  # the inverse Hessian before any pair, times the identity
        self._steps = start.new_zeros(history, *start.shape)
        self._changes = torch.zeros_like(self._steps)  # of the gradient
        self._rho = start.new_zeros(history, len(start))  # zero where a pair isn't used
        self._count = 0  # of evaluations: all rows write their pairs to the same slot

    def begin(self, rows: Tensor, start: Tensor) -> None:
        """See `Descent`."""
        super().begin(rows, start)
        self._radius = self._radius.masked_fill(rows, FIRST_STEP)
        self._rejected = self._rejected & ~rows
        self._steps.masked_fill_(rows[:, None], 0)
        self._changes.masked_fill_(rows[:, None], 0)
        self._rho.masked_fill_(rows, 0)

    def _trial(self) -> Tensor:
        point, gradient = self.point, self._gradient
        held = ((point <= self._lower) & (gradient > 0)) | ((point >= self._upper) & (gradient < 0))
        direction = self._direction(gradient.masked_fill(held, 0)).masked_fill_(held, 0)
        shorten = (self._radius / _rms(direction).clamp_min(torch.finfo(direction.dtype).tiny)).clamp_max(1)
        return torch.addcmul(point, direction, shorten[:, None])

    def _direction(self, gradient: Tensor) -> Tensor:
        """The quasi-Newton direction of each row; along the gradient, as long as the radius, where there is no pair."""
        history = len(self._rho)
        untaught = (self._rho == 0).all(0)
        steepest = self._radius / _rms(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
        order = [(self._count - 1 - age) % history for age in range(min(history, self._count))]
        q, alpha = -gradient, {}
        for i in order:
            alpha[i] = self._rho[i] * _dot(self._steps[i], q)
            q.addcmul_(self._changes[i], alpha[i][:, None], value=-1)
        q *= torch.where(untaught, steepest, self._scale)[:, None]
        for i in reversed(order):
            beta = self._rho[i] * _dot(self._changes[i], q)
            q.addcmul_(self._steps[i], (alpha[i] - beta)[:, None])
        return q

    def _judge(self, trial: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        """Accept or reject each row's trial, and learn the pair of its step and change of gradient either way."""
        step, change = trial - self.point, gradient - self._gradient
        product, step_norm2, change_norm2 = _dot(step, change), _dot(step, step), _dot(change, change)
        finite = change_norm2.isfinite() & loss.isfinite()
        usable = ~self._fresh & finite & (product > CURVATURE * (step_norm2 * change_norm2).sqrt())
        accepted = self._fresh | finite & (loss <= self._loss) & ~self.done
        length = (step_norm2 / step.shape[1]).sqrt()

        slot = self._count % len(self._rho)
        self._count += 1
        self._steps[slot] = step
        self._changes[slot] = torch.where(usable[:, None], change, 0)
        self._rho[slot] = torch.where(usable, 1 / product, 0)
        self._rho.masked_fill_(self._rejected & ~accepted, 0)
        wider = self._radius.maximum(2 * length).clamp_max(MAX_STEP)
        self._radius = torch.where(self._fresh, self._radius, torch.where(accepted, wider, length / 4))
        self._rejected = ~accepted
        self._scale = torch.where(usable, product / change_norm2, self._scale)
        self.point = torch.where(accepted[:, None], trial, self.point)
        self._loss = torch.where(accepted, loss, self._loss)
        self._gradient = torch.where(accepted[:, None], gradient, self._gradient)
        return accepted


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def _rms(a: Tensor) -> Tensor:
    return a.square().mean(1).sqrt()
