"""What a check found. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Verdict = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """One check of an axiom: what was done, and the figure that must not exceed the tolerance (both without unit).

    A `control` breaks the axiom on purpose and has to fail, so that a pass of the others means something. The figure is
    None where the check can't be made on this network. `note` says more, for people.
    """

    axiom: str
    what: str
    figure: float | None
    tolerance: float
    control: bool = False
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the axiom holds."""
        if self.figure is None:
            return "not applicable"
        return "pass" if self.figure <= self.tolerance else "fail"

    @property
    def as_expected(self) -> bool:
        """Whether the axiom holds or, for a control, is seen to be broken."""
        return self.verdict in ("not applicable", "fail" if self.control else "pass")

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity."""
        figure = None if self.figure is None or not math.isfinite(self.figure) else self.figure
        return {**asdict(self), "figure": figure, "verdict": self.verdict, "as_expected": self.as_expected}


def over_images(found: Iterable[Sequence[Finding]]) -> list[Finding]:
    """The findings of several images as one list: the worst figure of a check, for a control the one nearest a pass."""
    groups: dict[tuple[str, str, bool], list[Finding]] = {}
    for findings in found:
        for finding in findings:
            groups.setdefault((finding.axiom, finding.what, finding.control), []).append(finding)
    return [_worst(group) for group in groups.values()]


def _worst(findings: Sequence[Finding]) -> Finding:
    figures = [finding.figure for finding in findings if finding.figure is not None]
    if not figures:
        return findings[0]
    pick = min if findings[0].control else max
    # NaN is no pass: it counts as infinite
    figure = pick(math.inf if math.isnan(figure) else figure for figure in figures)
    notes = dict.fromkeys(finding.note for finding in findings if finding.note)
    return replace(findings[0], figure=figure, note="; ".join(notes))
