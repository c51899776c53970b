"""What an audit found, read from a run's `audit.json`. No torch, no Ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from pipeline.progress.words import plural
from pipeline.seal import DamagedError, damage
from workers.layout import AUDIT
from workers.storage import MissingError, Store

OF_THE_INTEGRAL = ("completeness", "sensitivity")
"""Axioms whose checks are only as exact as an integral by the run's own rule, where their tolerance isn't 0."""


class Finding(BaseModel):
    """A check of an axiom; a `control` breaks it on purpose, and has to fail."""

    axiom: str
    what: str
    tolerance: float
    figure: float | None
    verdict: Literal["pass", "fail", "not applicable"]
    control: bool
    as_expected: bool
    note: str

    @property
    def words(self) -> str:
        """The verdict; `(!)` where it isn't what it must be."""
        match self.verdict:
            case "pass":
                return "passes (!)" if self.control else "holds"
            case "fail":
                return "fails, as it must" if self.control else "fails (!)"
        return self.verdict


class AuditRecord(BaseModel):
    """The part of `audit.json` that is shown."""

    findings: list[Finding]
    images: list[Any] = []

    @property
    def sound(self) -> bool:
        """Whether all axioms hold and all controls fail."""
        return all(finding.as_expected for finding in self.findings)

    def as_expected(self, *, control: bool) -> tuple[int, int]:
        """Of the checks, or the controls, that could be made: how many came out as they must, and of how many."""
        made = [f.as_expected for f in self.findings if f.control == control and f.verdict != "not applicable"]
        return sum(made), len(made)

    @property
    def summary(self) -> str:
        """In one line: how many axioms hold, and how many controls fail as they must."""
        (holding, checks), (failing, controls) = (self.as_expected(control=control) for control in (False, True))
        return (
            f"{holding} of {checks} checks of the axioms hold and {failing} of {controls} controls fail as they must, "
            f"on {plural(len(self.images), 'image')}."
        )

    @property
    def hint(self) -> str | None:
        """What may be the matter where a check fails that the run's own integration carries out."""
        if any(not f.as_expected and f.axiom in OF_THE_INTEGRAL and f.tolerance for f in self.findings):
            return (
                "Too few evaluations may be to blame, rather than the axiom: try a larger attribution.max_evaluations, "
                "or a looser tolerance.completeness."
            )
        return None


def read_audit(store: Store) -> AuditRecord | None:
    """What the audit of a run found, None if there was none. Raises StorageError, DamagedError."""
    try:
        return AuditRecord.model_validate_json(store.read(AUDIT))
    except MissingError:
        return None
    except ValidationError as error:
        raise DamagedError(f"{store.url}/{AUDIT} is damaged ({damage(error)}); audit again.") from None
