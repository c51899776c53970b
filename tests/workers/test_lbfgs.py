from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from workers.adam import Adam
from workers.descent import Descent, Objective
from workers.lbfgs import Lbfgs

SIZE = 20


def minimise(descent: Descent, objective: Objective, on_step: Callable[[], None] = lambda: None) -> Descent:
    """Step until every row is done."""
    while not descent.done.all():
        on_step()
        descent.step(objective)
    return descent


def minimise_lbfgs(objective: Objective, start: Tensor, *, on_step: Callable[[], None] = lambda: None, **limits: Any):
    return minimise(Lbfgs(start, **limits), objective, on_step)


def minimise_adam(objective: Objective, start: Tensor, **limits: Any) -> Descent:
    return minimise(Adam(start, **({"learning_rate": 0.02} | limits)), objective)


def quadratics(batch: int, *, condition: float = 100.0, seed: int = 0) -> tuple[Objective, Tensor]:
    """1/2 (x - c)^T A (x - c) for a random A and c of each row; the minima c."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(batch, SIZE, SIZE, generator=generator, dtype=torch.float64)).Q
    spectrum = torch.logspace(0, np.log10(condition), SIZE, dtype=torch.float64)
    matrix = basis * spectrum @ basis.mT
    centre = torch.rand(batch, SIZE, generator=generator, dtype=torch.float64)

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        gradient = torch.einsum("bij,bj->bi", matrix, x - centre)
        return 0.5 * ((x - centre) * gradient).sum(1), gradient

    return objective, centre


def rosenbrock(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    loss = (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), gradient


def rows(objective: Objective, index: list[int], batch: int) -> Objective:
    """`objective` for some of its rows: row i of the point is put at place index[i] of a full batch."""

    def some(x: Tensor) -> tuple[Tensor, Tensor]:
        full = x.new_zeros(batch, x.shape[1])
        full[index] = x
        loss, gradient = objective(full)
        return loss[index], gradient[index]

    return some


MINIMISERS = [minimise_lbfgs, minimise_adam]


def test_solves_quadratics():
    objective, centre = quadratics(4)
    minimum = minimise_lbfgs(objective, torch.zeros_like(centre), iterations=150)
    torch.testing.assert_close(minimum.point, centre, atol=1e-6, rtol=0)


def test_needs_no_more_iterations_than_torch_lbfgs():
    objective, centre = quadratics(3, condition=1000.0)
    mine = minimise_lbfgs(objective, torch.zeros_like(centre), iterations=60).loss
    for row in range(3):
        alone = rows(objective, [row], 3)
        point = torch.zeros(1, SIZE, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([point], max_iter=60, max_eval=60, history_size=10, tolerance_change=0)

        def closure(point: Tensor = point, alone: Objective = alone) -> Tensor:
            loss, point.grad = alone(point.detach())
            return loss[0]

        optimizer.step(closure)
        assert mine[row] <= 10 * alone(point.detach())[0][0]


def test_rosenbrock_reaches_scipys_minimum():
    start = torch.tensor([[-1.2, 1.0, -1.2, 1.0], [0.0, 0.0, 0.0, 0.0], [2.0, -1.0, 0.5, 1.5]], dtype=torch.float64)
    minimum = minimise_lbfgs(rosenbrock, start, iterations=400)
    for row in range(3):

        def numpy_rosenbrock(x: np.ndarray) -> tuple[float, np.ndarray]:
            loss, gradient = rosenbrock(torch.from_numpy(x)[None])
            return loss.item(), gradient[0].numpy()

        reference = minimize(numpy_rosenbrock, start[row].numpy(), jac=True, method="L-BFGS-B", options={"gtol": 1e-10})
        np.testing.assert_allclose(minimum.point[row].numpy(), reference.x, atol=1e-4)


def test_bounded_problem_reaches_scipys_minimum():
    objective, centre = quadratics(4, seed=3)
    minimum = minimise_lbfgs(objective, torch.full_like(centre, 0.5), iterations=200, lower=0.3, upper=0.6)
    for row in range(4):
        alone = rows(objective, [row], 4)

        def flat(x: np.ndarray, alone: Objective = alone) -> tuple[float, np.ndarray]:
            loss, gradient = alone(torch.from_numpy(x)[None])
            return loss.item(), gradient[0].numpy()

        options = {"ftol": 1e-15, "gtol": 1e-12}
        bounds = [(0.3, 0.6)] * SIZE
        reference = minimize(flat, np.full(SIZE, 0.5), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        assert minimum.loss[row].item() == pytest.approx(reference.fun, rel=1e-6)
    assert minimum.point.min() >= 0.3
    assert minimum.point.max() <= 0.6


@pytest.mark.parametrize("minimise", MINIMISERS)
def test_a_row_does_not_depend_on_its_companions(minimise):
    objective, centre = quadratics(5)
    together = minimise(objective, torch.zeros_like(centre), iterations=40).point
    for row in range(5):
        alone = minimise(rows(objective, [row], 5), torch.zeros(1, SIZE, dtype=torch.float64), iterations=40).point
        torch.testing.assert_close(alone[0], together[row], atol=1e-9, rtol=0)


def test_a_permuted_batch_gives_the_same_bits():
    objective, centre = quadratics(5)
    order = [3, 0, 4, 1, 2]
    start = torch.zeros_like(centre)
    together = minimise_lbfgs(objective, start, iterations=40)
    permuted = minimise_lbfgs(rows(objective, order, 5), start, iterations=40)
    assert torch.equal(permuted.point, together.point[order])
    assert torch.equal(permuted.loss, together.loss[order])


@settings(max_examples=25, deadline=None)
@given(exponent=st.floats(-12, 12), condition=st.floats(1, 1e12), seed=st.integers(0, 2**31), steps=st.integers(1, 60))
def test_never_ends_above_its_start_however_badly_scaled(exponent: float, condition: float, seed: int, steps: int):
    quadratic, centre = quadratics(2, condition=condition, seed=seed)

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = quadratic(x)
        return loss * 10**exponent, gradient * 10**exponent

    start = torch.zeros_like(centre)
    minimum = minimise_lbfgs(objective, start, iterations=steps)
    assert (minimum.loss <= objective(start)[0]).all()
    torch.testing.assert_close(minimum.loss, objective(minimum.point)[0], atol=0, rtol=1e-12)


def test_does_not_stall_at_its_start_in_a_narrow_valley():
    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        scales = torch.tensor([1e8, 1.0], dtype=x.dtype)
        return 0.5 * (scales * (x - 0.7).square()).sum(1), scales * (x - 0.7)

    minimum = minimise_lbfgs(objective, torch.zeros(1, 2, dtype=torch.float64), iterations=60)
    torch.testing.assert_close(minimum.point, torch.full((1, 2), 0.7, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("minimise", MINIMISERS)
@pytest.mark.parametrize("exponent", [-100, -40, 40, 100])
def test_the_units_of_a_loss_change_no_bit(minimise, exponent: int):
    quadratic, centre = quadratics(2, condition=1e4)

    def single(x: Tensor, exponent: int = 0) -> tuple[Tensor, Tensor]:
        loss, gradient = quadratic(x.double())
        return (loss * 2.0**exponent).float(), (gradient * 2.0**exponent).float()

    start = torch.zeros_like(centre).float()
    plain = minimise(single, start, iterations=40)
    in_other_units = minimise(lambda x: single(x, exponent), start, iterations=40)
    assert torch.equal(in_other_units.point, plain.point)
    assert (plain.loss < single(start)[0] / 2).all()


def test_a_row_at_its_minimum_stays_there():
    objective, centre = quadratics(3)
    start = torch.cat([centre[:1], torch.zeros_like(centre[1:])])
    minimum = minimise_lbfgs(objective, start, iterations=100)
    assert torch.equal(minimum.point[0], start[0])
    torch.testing.assert_close(minimum.point[1:], centre[1:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("minimise", MINIMISERS)
def test_a_row_on_a_plateau_is_done_whatever_its_companions_do(minimise):
    quadratic, centre = quadratics(3, condition=10.0)

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = quadratic(x)
        return loss + 1, gradient

    start = torch.stack([centre[0] + 1e-9, torch.full_like(centre[1], 0.5), torch.full_like(centre[2], 2.0)])
    together = minimise(objective, start, iterations=400, plateau=0.02)
    assert together.iterations[0] < together.iterations[2] < 400
    for row in range(3):
        alone = minimise(rows(objective, [row], 3), start[[row]], iterations=400, plateau=0.02)
        assert alone.iterations[0] == together.iterations[row]
        torch.testing.assert_close(alone.point[0], together.point[row], atol=1e-9, rtol=0)


def test_without_a_plateau_no_iteration_is_saved():
    objective, centre = quadratics(2)
    assert minimise_lbfgs(objective, centre, iterations=25).iterations.tolist() == [25, 25]


def test_a_step_to_nowhere_is_taken_back():
    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        """-log x, which is no number left of 0, plus x: the minimum is at 1."""
        return (x - x.log()).sum(1), 1 - 1 / x

    start = torch.tensor([[0.3, 0.01], [1e-3, 1.2]], dtype=torch.float64)
    minimum = minimise_lbfgs(objective, start, iterations=80)
    torch.testing.assert_close(minimum.point, torch.ones(2, 2, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_bad_row_does_not_touch_its_neighbour():
    objective, centre = quadratics(2)

    def spoilt(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = objective(x)
        return loss.index_fill(0, torch.tensor([0]), float("nan")), gradient.index_fill(
            0, torch.tensor([0]), float("nan")
        )

    start = torch.zeros_like(centre)
    expected = minimise_lbfgs(objective, start, iterations=30)
    minimum = minimise_lbfgs(spoilt, start, iterations=30)
    assert torch.equal(minimum.point[1], expected.point[1])


def test_one_evaluation_an_iteration_and_one_at_the_start():
    objective, centre = quadratics(2)
    evaluations = ticks = 0

    def counted(x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal evaluations
        evaluations += 1
        return objective(x)

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    minimise_lbfgs(counted, torch.zeros_like(centre), iterations=7, on_step=tick)
    assert (evaluations, ticks) == (8, 8)


def test_adam_keeps_the_best_point_within_the_bounds():
    objective, centre = quadratics(3)
    start = torch.full_like(centre, 0.5)
    minimum = minimise_adam(objective, start, iterations=200, learning_rate=0.02, lower=0.2, upper=0.8)
    assert (minimum.loss < 0.5 * objective(start)[0]).all()
    torch.testing.assert_close(minimum.loss, objective(minimum.point)[0])
    assert minimum.point.min() >= 0.2
    assert minimum.point.max() <= 0.8


def test_adam_is_torchs():
    objective, centre = quadratics(3)
    descent, point = Adam(torch.zeros_like(centre), learning_rate=0.03, iterations=40), torch.zeros_like(centre)
    optimizer, seen = torch.optim.Adam([point], lr=0.03), []

    def spied(x: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x)
        return objective(x)

    minimise(descent, spied)
    for trial in seen:
        torch.testing.assert_close(trial, point, atol=1e-6, rtol=0)  # its epsilon is in the units of the loss
        point.grad = objective(point)[1]
        optimizer.step()


@pytest.mark.parametrize("kind", [Lbfgs, lambda start, **limits: Adam(start, learning_rate=0.02, **limits)])
def test_a_row_that_takes_anothers_place_does_as_it_would_alone(kind):
    """Not a bit may differ, whatever stood in its place before, NaN included."""
    objective, centre = quadratics(3)
    bad = torch.tensor([False, True, False])
    alone = minimise(kind(torch.zeros_like(centre), iterations=30), objective)

    def spoilt(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = objective(x)
        return loss.masked_fill(bad, torch.nan), gradient.masked_fill(bad[:, None], torch.nan)

    descent = kind(torch.full_like(centre, 0.7), iterations=30)
    for _ in range(17):
        descent.step(spoilt)
    coming = torch.tensor([False, True, True])
    before = descent.point[0]
    descent.begin(coming, torch.zeros_like(centre))
    assert torch.equal(descent.point[0], before)
    while not descent.done.all():
        descent.step(objective)
    assert torch.equal(descent.point[1:], alone.point[1:]) and torch.equal(descent.loss[1:], alone.loss[1:])
    assert descent.iterations.tolist() == [30, 30, 30]
    undisturbed = minimise(kind(torch.full_like(centre, 0.7), iterations=30), objective)
    assert torch.equal(descent.point[0], undisturbed.point[0])
