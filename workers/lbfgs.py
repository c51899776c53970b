"""Minimisers for a batch of independent problems: one row, one problem, and no row ever looks at another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps points (B x n) to their losses (B) and the gradients of the losses (B x n)."""

FIRST_STEP = 0.05
MAX_STEP = 0.25
"""Root mean square lengths of a first step and of the longest step, for variables that live in [0, 1]."""

CURVATURE = 1e-8
"""A pair is used if the cosine of the angle between its step and its change of gradient is above this."""


PATIENCE = 10
"""Iterations over which a loss must fall by the share `plateau`, or the row is done."""


@dataclass(frozen=True)
class Minimum:
    """The best point seen of each problem (B x n), its loss (B), and the iterations until it was done (B, int64)."""

    point: Tensor
    loss: Tensor
    iterations: Tensor


def minimise_lbfgs(
    objective: Objective,
    start: Tensor,
    *,
    iterations: int,
    history: int = 10,
    plateau: float = 0.0,
    lower: float = float("-inf"),
    upper: float = float("inf"),
    on_step: Callable[[], None] = lambda: None,
) -> Minimum:
    """Minimise B problems of n variables in [lower, upper] from `start` (B x n) by limited-memory BFGS.

    The direction is Nocedal and Wright's two-loop recursion (Numerical Optimization, algorithm 7.4) with products,
    scaling and history of each row alone, over the variables that no bound holds back (the two-metric projection of
    Bertsekas, 1982); the step is cut to a trust radius and projected onto the bounds. There is no line search: an
    iteration evaluates the objective once (and once at the start). A row whose loss rose, or isn't finite, stays
    where it was with a quarter of the radius; its evaluation still teaches it the curvature on the way. If that fails
    too, it forgets its history. So a loss never ends above its start. Losses are scaled within, so that their units
    don't matter. A row whose loss falls by less than `plateau` (a share) in `PATIENCE` iterations stays as it is from
    then on, and when all do, the search ends. Nothing waits for the device.
    """
    loss, gradient = objective(start)
    unit = _unit(gradient)
    state = _begin(start, loss / unit, gradient / unit[:, None], history)
    watch = _Plateau(plateau, state.loss)
    for iteration in range(iterations):
        on_step()
        trial = _trial(state, iteration, lower, upper)
        loss, gradient = objective(trial)
        state = _judge(state, trial, loss / unit, gradient / unit[:, None], slot=iteration % history, done=watch.done)
        if watch.all_done(iteration, state.loss):
            break
    return Minimum(state.point, state.loss * unit, watch.iterations)


def minimise_adam(
    objective: Objective,
    start: Tensor,
    *,
    iterations: int,
    learning_rate: float,
    plateau: float = 0.0,
    lower: float = float("-inf"),
    upper: float = float("inf"),
    on_step: Callable[[], None] = lambda: None,
) -> Minimum:
    """Minimise as `minimise_lbfgs` does, by Adam (Kingma and Ba, 2015), projected onto the bounds after every step."""
    point = start.clone()
    optimizer = torch.optim.Adam([point], lr=learning_rate)
    loss, gradient = objective(point)
    unit = _unit(gradient)
    best, best_loss = start.clone(), loss
    watch = _Plateau(plateau, loss)
    for iteration in range(iterations):
        on_step()
        point.grad = gradient / unit[:, None]
        optimizer.step()
        point.clamp_(lower, upper)
        loss, gradient = objective(point)
        better = (loss < best_loss) & ~watch.done
        best, best_loss = torch.where(better[:, None], point, best), torch.where(better, loss, best_loss)
        if watch.all_done(iteration, best_loss):
            break
    return Minimum(best, best_loss, watch.iterations)


def _unit(gradient: Tensor) -> Tensor:
    """A unit for the losses of each row (B), a power of two, in which the gradient's largest element is 1 to 2.

    In it squares and products of gradients neither overflow nor vanish, and no bit depends on the units of the losses.
    """
    largest = gradient.abs().amax(1)
    usable = largest.isfinite() & (largest > 0)
    exponent = torch.where(usable, largest, 1).frexp().exponent - 1
    return torch.ldexp(torch.ones_like(largest), exponent)


class _Plateau:
    """Which rows no longer get on, and how many iterations each has taken. All of it stays on the device."""

    def __init__(self, share: float, loss: Tensor):
        self.done = torch.zeros_like(loss, dtype=torch.bool)
        self.iterations = torch.zeros_like(loss, dtype=torch.long)
        self._share = share
        self._before = loss
        self._told: tuple[Tensor, torch.cuda.Event] | None = None

    def all_done(self, iteration: int, loss: Tensor) -> bool:
        """Take note of the losses after an iteration; whether every row is known to be done."""
        self.iterations += ~self.done
        if self._share == 0 or (iteration + 1) % PATIENCE:
            return False
        self.done = self.done | ~(loss < (1 - self._share) * self._before)
        self._before = loss
        return self._known(self.done.all())

    def _known(self, flag: Tensor) -> bool:
        """The flag's value; on a GPU that of an earlier one whose copy has arrived, so that nothing waits."""
        if not flag.is_cuda:
            return bool(flag)
        if self._told is not None and self._told[1].query() and bool(self._told[0]):
            return True
        if self._told is None or self._told[1].query():
            copy, event = torch.empty((), dtype=torch.bool, pin_memory=True), torch.cuda.Event()
            copy.copy_(flag, non_blocking=True)
            event.record()
            self._told = copy, event
        return False


@dataclass(frozen=True)
class _State:
    """Where each row stands. A pair that isn't used has rho = 0; the pairs are written in place, to copy no history."""

    point: Tensor  # B x n
    loss: Tensor  # B
    gradient: Tensor  # B x n
    radius: Tensor  # B, root mean square
    rejected: Tensor  # B, whether the last trial was
    scale: Tensor  # B, gamma: the inverse Hessian before any pair, times the identity
    steps: Tensor  # history x B x n
    changes: Tensor  # history x B x n, of the gradient
    rho: Tensor  # history x B


def _begin(start: Tensor, loss: Tensor, gradient: Tensor, history: int) -> _State:
    batch, size = start.shape
    return _State(
        point=start,
        loss=loss,
        gradient=gradient,
        radius=torch.full_like(loss, FIRST_STEP),
        rejected=torch.zeros_like(loss, dtype=torch.bool),
        scale=torch.zeros_like(loss),
        steps=start.new_zeros(history, batch, size),
        changes=start.new_zeros(history, batch, size),
        rho=start.new_zeros(history, batch),
    )


def _trial(state: _State, iteration: int, lower: float, upper: float) -> Tensor:
    """The next points to evaluate (B x n)."""
    held = ((state.point <= lower) & (state.gradient > 0)) | ((state.point >= upper) & (state.gradient < 0))
    direction = _direction(state, state.gradient.masked_fill(held, 0), newest=iteration - 1).masked_fill_(held, 0)
    shorten = (state.radius / _rms(direction).clamp_min(torch.finfo(direction.dtype).tiny)).clamp_max(1)
    return torch.addcmul(state.point, direction, shorten[:, None]).clamp_(lower, upper)


def _direction(state: _State, gradient: Tensor, newest: int) -> Tensor:
    """The quasi-Newton direction of each row; along the gradient, as long as the radius, where there is no history."""
    history = len(state.rho)
    fresh = (state.rho == 0).all(0)
    steepest = state.radius / _rms(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
    order = [(newest - age) % history for age in range(min(history, newest + 1))]
    q, alpha = -gradient, {}
    for i in order:
        alpha[i] = state.rho[i] * _dot(state.steps[i], q)
        q.addcmul_(state.changes[i], alpha[i][:, None], value=-1)
    q *= torch.where(fresh, steepest, state.scale)[:, None]
    for i in reversed(order):
        beta = state.rho[i] * _dot(state.changes[i], q)
        q.addcmul_(state.steps[i], (alpha[i] - beta)[:, None])
    return q


def _judge(state: _State, trial: Tensor, loss: Tensor, gradient: Tensor, *, slot: int, done: Tensor) -> _State:
    """Accept or reject each row's trial, and learn the pair of its step and change of gradient either way.

    A row that is done takes no trial any more.
    """
    step, change = trial - state.point, gradient - state.gradient
    product, step_norm2, change_norm2 = _dot(step, change), _dot(step, step), _dot(change, change)
    finite = change_norm2.isfinite() & loss.isfinite()
    usable = finite & (product > CURVATURE * (step_norm2 * change_norm2).sqrt())
    accepted = finite & (loss <= state.loss) & ~done
    length = (step_norm2 / step.shape[1]).sqrt()

    state.steps[slot] = step
    state.changes[slot] = torch.where(usable[:, None], change, 0)
    state.rho[slot] = torch.where(usable, 1 / product, 0)
    state.rho.masked_fill_(state.rejected & ~accepted, 0)
    return _State(
        point=torch.where(accepted[:, None], trial, state.point),
        loss=torch.where(accepted, loss, state.loss),
        gradient=torch.where(accepted[:, None], gradient, state.gradient),
        radius=torch.where(accepted, state.radius.maximum(2 * length).clamp_max(MAX_STEP), length / 4),
        rejected=~accepted,
        scale=torch.where(usable, product / change_norm2, state.scale),
        steps=state.steps,
        changes=state.changes,
        rho=state.rho,
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def _rms(a: Tensor) -> Tensor:
    return a.square().mean(1).sqrt()
