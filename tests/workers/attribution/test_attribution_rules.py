from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.attribution.rules import (
    Quadrature,
    gauss_legendre,
    graded_middle,
    graded_trapezoid,
    left,
    middle,
    quadrature,
    right,
    trapezoid,
)
from workers.params import FixedRule, GaussLegendre, Left, Middle, Right, Trapezoid

COUNTS = st.integers(1, 300)
RULES = st.sampled_from([left, right, middle, trapezoid, gauss_legendre])


@settings(deadline=None)
@given(RULES, COUNTS)
def test_weights_sum_to_one_over_ascending_nodes_within_the_path(rule, n):
    nodes, weights = rule(n)
    assert nodes.dtype == weights.dtype == np.float64
    assert len(nodes) == len(weights)
    assert weights.sum() == pytest.approx(1, abs=1e-13)
    assert (weights > 0).all()
    assert nodes[0] >= 0
    assert nodes[-1] <= 1
    assert (np.diff(nodes) > 0).all()


@settings(deadline=None)
@given(COUNTS, st.integers(0, 2**32 - 1))
def test_the_trapezoid_is_numpys(n, seed):
    nodes, weights = trapezoid(n)
    values = np.random.default_rng(seed).normal(size=n + 1)
    assert weights @ values == pytest.approx(np.trapezoid(values, nodes), abs=1e-12)


@settings(deadline=None)
@given(
    st.sampled_from([(trapezoid, middle), (graded_trapezoid, graded_middle)]),
    st.integers(1, 200),
    st.integers(0, 2**32 - 1),
)
def test_doubling_a_trapezoid_takes_only_the_midpoints(rules, n, seed):
    whole, half = rules
    frequency = np.random.default_rng(seed).normal(size=3)

    def integral(rule: Quadrature) -> float:
        return rule.weights @ np.cos(np.outer(rule.nodes, frequency)).sum(axis=1)

    assert integral(whole(2 * n)) == pytest.approx((integral(whole(n)) + integral(half(n))) / 2, abs=1e-13)
    assert set(whole(2 * n).nodes) == set(whole(n).nodes) | set(half(n).nodes)


@settings(deadline=None)
@given(st.sampled_from([graded_trapezoid, graded_middle]), st.integers(2, 300))
def test_graded_rules_are_exact_for_constants_and_dense_near_the_baseline(rule, n):
    nodes, weights = rule(n)
    assert weights.sum() == pytest.approx(1, abs=1e-13)
    assert (weights[nodes > 0] > 0).all() and (np.diff(nodes) > 0).all() and (np.diff(nodes, 2) >= -1e-15).all()
    assert weights @ nodes == pytest.approx(0.5, abs=1 / n**2)


@settings(deadline=None)
@given(st.integers(1, 20))
def test_gauss_legendre_is_exact_to_degree_two_n_minus_one(n):
    nodes, weights = gauss_legendre(n)
    for degree in range(2 * n):
        assert weights @ nodes**degree == pytest.approx(1 / (degree + 1), abs=1e-13)
    assert abs(weights @ nodes ** (2 * n) - 1 / (2 * n + 1)) > 0


@pytest.mark.parametrize(
    ("rule", "integral_of_a"), [(left, 0.375), (right, 0.625), (middle, 0.5), (trapezoid, 0.5), (gauss_legendre, 0.5)]
)
def test_each_rule_is_biased_as_its_name_says(rule, integral_of_a):
    nodes, weights = rule(4)
    assert weights @ nodes == pytest.approx(integral_of_a, abs=1e-15)


@pytest.mark.parametrize(
    ("asked", "given_rule"),
    [
        (Left(left=7), left(7)),
        (Right(right=7), right(7)),
        (Middle(middle=7), middle(7)),
        (Trapezoid(trapezoid=7), trapezoid(7)),
        (GaussLegendre(gauss_legendre=7), gauss_legendre(7)),
    ],
)
def test_the_job_files_rules_are_these(asked: FixedRule, given_rule: Quadrature):
    assert quadrature(asked) is given_rule


@settings(deadline=None)
@given(RULES, st.integers(1, 50))
def test_ends_are_added_at_weight_zero(rule, n):
    plain = rule(n)
    nodes, weights = plain.with_ends()
    assert (nodes[0], nodes[-1]) == (0, 1)
    assert (np.diff(nodes) > 0).all()
    assert nodes[weights > 0].tolist() == plain.nodes.tolist()
    assert weights[weights > 0].tolist() == plain.weights.tolist()


def test_shared_rules_are_not_to_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        left(3).weights[0] = 1
