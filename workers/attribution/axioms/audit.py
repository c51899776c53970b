"""All axioms on an image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from workers.attribution.axioms import completeness, invariance, sensitivity, symmetry
from workers.attribution.axioms.finding import Finding
from workers.attribution.axioms.subject import Subject


def check_image(subject: Subject, *, compile: bool = False) -> list[Finding]:
    """Check every axiom on one subject."""
    return list(chain.from_iterable(_checks(subject, compile)))


def _checks(subject: Subject, compile: bool) -> Iterator[list[Finding]]:
    yield completeness.check(subject)
    yield sensitivity.check(subject)
    yield invariance.check(subject, compile=compile)
    yield symmetry.check(subject)
    yield symmetry.check_linearity(subject)
