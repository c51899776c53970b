"""Quadrature rules on [0, 1]: where along the path the gradient is taken, and with which weight. No torch."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.params import FixedRule, Left, Middle, Right, Trapezoid

Vector = NDArray[np.float64]


class Quadrature(NamedTuple):
    """Nodes in [0, 1], ascending, and their weights, which sum to 1 (both fp64 vectors of equal length, read-only)."""

    nodes: Vector
    weights: Vector

    def with_ends(self) -> Quadrature:
        """The same rule with 0 and 1 among the nodes, at weight zero where the rule itself doesn't use them."""
        before, after = self.nodes[0] != 0, self.nodes[-1] != 1
        padding = (int(before), int(after))
        nodes = np.pad(self.nodes, padding, constant_values=(0.0, 1.0))
        return _frozen(nodes, np.pad(self.weights, padding))


def quadrature(rule: FixedRule) -> Quadrature:
    """The nodes and weights of a fixed rule."""
    if isinstance(rule, Trapezoid):
        return trapezoid(rule.trapezoid)
    if isinstance(rule, Left):
        return left(rule.left)
    if isinstance(rule, Right):
        return right(rule.right)
    if isinstance(rule, Middle):
        return middle(rule.middle)
    return gauss_legendre(rule.gauss_legendre)


@cache
def left(n: int) -> Quadrature:
    """Left Riemann sum: nodes i/n for i = 0 .. n-1, weights 1/n."""
    return _frozen(np.arange(n) / n, np.full(n, 1 / n))


@cache
def right(n: int) -> Quadrature:
    """Right Riemann sum: nodes i/n for i = 1 .. n, weights 1/n (Sundararajan et al. 2017, equation 3)."""
    return _frozen(np.arange(1, n + 1) / n, np.full(n, 1 / n))


@cache
def middle(n: int) -> Quadrature:
    """Midpoint rule: nodes (2i + 1)/2n for i = 0 .. n-1, weights 1/n."""
    return _frozen((2 * np.arange(n) + 1) / (2 * n), np.full(n, 1 / n))


@cache
def trapezoid(n: int) -> Quadrature:
    """Trapezoid rule of n intervals: nodes i/n for i = 0 .. n, weights 1/n and half of that at both ends.

    The rule is nested: trapezoid(2n) is the mean of trapezoid(n) and middle(n), so doubling n costs only n new nodes.
    """
    weights = np.full(n + 1, 1 / n)
    weights[[0, -1]] /= 2
    return _frozen(np.arange(n + 1) / n, weights)


@cache
def graded_trapezoid(n: int) -> Quadrature:
    """Trapezoid rule of n intervals in u, a = (u + u^2) / 2: nodes for u = i/n, i = 0 .. n, weights (1/2 + u) / n.

    At both ends half of that. Nodes are twice as dense near the baseline as equal ones, since a network's gradients
    change most there; constants are exact; and the rule is nested as the trapezoid is: graded_trapezoid(2n) is the mean
    of graded_trapezoid(n) and graded_middle(n).
    """
    return _graded(trapezoid(n))


@cache
def graded_middle(n: int) -> Quadrature:
    """Midpoint rule in u, where a = (u + u^2) / 2: nodes for u = (2i + 1)/2n, i = 0 .. n-1, weights (1/2 + u) / n."""
    return _graded(middle(n))


def _graded(rule: Quadrature) -> Quadrature:
    """The rule after the substitution a = (u + u^2) / 2, da = (1/2 + u) du."""
    return _frozen((rule.nodes + rule.nodes**2) / 2, rule.weights * (0.5 + rule.nodes))


@cache
def gauss_legendre(n: int) -> Quadrature:
    """Gauss-Legendre quadrature with n nodes, mapped from [-1, 1] to [0, 1]; exact for degrees up to 2n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return _frozen((1 + nodes) / 2, weights / 2)


def _frozen(nodes: Vector, weights: Vector) -> Quadrature:
    nodes.setflags(write=False)
    weights.setflags(write=False)
    return Quadrature(nodes, weights)
