"""All axioms on a sample of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from workers.attribution.axioms import completeness, invariance, sensitivity, symmetry
from workers.attribution.axioms.finding import Finding, over_images
from workers.attribution.axioms.subject import Subject


def audit(
    subjects: Sequence[Subject], *, compile: bool = False, on_check: Callable[[], None] = lambda: None
) -> list[Finding]:
    """Check every axiom on every subject; a finding is the worst of all subjects. `on_check` is called now and then."""
    return over_images([_checked(subject, compile, on_check) for subject in subjects])


def _checked(subject: Subject, compile: bool, on_check: Callable[[], None]) -> list[Finding]:
    found: list[Finding] = []
    for findings in _checks(subject, compile):
        found += findings
        on_check()
    return found


def _checks(subject: Subject, compile: bool) -> Iterator[list[Finding]]:
    yield completeness.check(subject)
    yield sensitivity.check(subject)
    yield invariance.check(subject, compile=compile)
    yield symmetry.check(subject)
    yield symmetry.check_linearity(subject)
