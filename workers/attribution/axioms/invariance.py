"""Implementation invariance: networks that are the same function get the same map, down to the numerical floor."""

from __future__ import annotations

from copy import deepcopy

import torch

from workers.attribution.axioms.deeplift import deeplift, with_rescale_rule
from workers.attribution.axioms.finding import Finding
from workers.attribution.axioms.rewriting import absolute, deeper
from workers.attribution.axioms.subject import FLOOR, Function, Subject, distance, function_of
from workers.attribution.path import Attribution
from workers.errors import first_line
from workers.features import Network
from workers.folding import folded

SINGLE_FLOOR = 5e-3
"""Relative L1 distance of an fp32 map from its fp64 twin that rounding explains."""


def check(subject: Subject, *, compile: bool = False) -> list[Finding]:
    """The network written otherwise in fp64, the run's precision against fp64, and two controls."""
    double = subject.exact
    own = subject.gradients(subject.exactly())
    written_otherwise = {
        "a copying layer and one more ReLU behind each of {} ReLUs": deeper(double),
        "{} ReLUs written with |x|": absolute(double),
        "{} BatchNorms folded into their convolutions": folded(double, subject.x),
        "another memory layout": (_contiguous(double), None),
    }
    found = [_compare(subject, own, what, *other) for what, other in written_otherwise.items()]
    if compile:
        found.append(_compiled(subject, own, double))
    return [*found, *_floor(subject, own), _deeplift(subject, double)]


def _compare(subject: Subject, own: Attribution, what: str, other: Network, layers: int | None) -> Finding:
    what = what.format(layers)
    if layers == 0:
        return Finding("implementation invariance", what, None, FLOOR, note="the network has no such layers")
    x, x0 = (point.contiguous() for point in (subject.x, subject.x0))
    found = subject.gradients(subject.exactly(other), x, x0)
    same = abs(found.objective_value - own.objective_value) <= FLOOR * max(1.0, abs(own.objective_value))
    note = "" if same else f"F(x) is {found.objective_value} there, not {own.objective_value}"
    return Finding("implementation invariance", what, distance(found.map, own.map), FLOOR, note=note)


def _contiguous(network: Network) -> Network:
    copy = deepcopy(network)
    copy.module.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    return copy


def _compiled(subject: Subject, own: Attribution, double: Network) -> Finding:
    what = "compiled by torch.compile"
    copy = deepcopy(double)
    copy.module = torch.compile(copy.module)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return _compare(subject, own, what, copy, None)
    except Exception as error:  # a missing compiler, and whatever else its back ends raise
        return Finding("implementation invariance", what, None, FLOOR, note=f"not compiled: {first_line(error)}")


def _floor(subject: Subject, own: Attribution) -> list[Finding]:
    """The run's fp32 against fp64 and, as a control, bf16."""
    rounded = deepcopy(subject.network)
    rounded.dtype = torch.bfloat16  # it then runs under autocast
    coarse = function_of(rounded, subject.target, subject.params.objective)

    def off(function: Function) -> float:
        return distance(subject.gradients(function, subject.image, subject.baseline).map, own.map)

    return [
        Finding("numerical floor", "fp32, as the run computes, against fp64", off(subject.single), SINGLE_FLOOR),
        Finding("numerical floor", "bf16 against fp64", off(coarse), SINGLE_FLOOR, control=True),
    ]


def _deeplift(subject: Subject, double: Network) -> Finding:
    """DeepLift on the network and on the same function with its ReLUs written otherwise."""
    what = "DeepLift, ReLUs written with |x|"
    other, layers = absolute(double)
    if not layers:
        return Finding("implementation invariance", what, None, FLOOR, control=True, note="the network has no ReLUs")
    one, two = (
        deeplift(function_of(with_rescale_rule(n), subject.target, "logit"), subject.x, subject.x0)
        for n in (double, other)
    )
    return Finding("implementation invariance", what, distance(two, one), FLOOR, control=True)
