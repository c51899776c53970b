"""An audit in words: what holds, what fails as it must, and what must not have failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.findings import AuditRecord, read_audit
from pipeline.seal import DamagedError
from workers.attribution.axioms.finding import Finding
from workers.layout import AUDIT
from workers.storage import LocalStore


def record(*findings: Finding, images: int = 1) -> AuditRecord:
    return AuditRecord.model_validate({"findings": [f.as_dict() for f in findings], "images": [{}] * images})


HOLDS = Finding("completeness", "the sum is the change", 0.001, 0.01)
BROKEN = Finding("completeness", "the sum is the change", 0.3, 0.01)
CONTROL = Finding("completeness", "weights that sum to 2", 1.0, 0.01, control=True)
BLIND = Finding("completeness", "weights that sum to 2", 0.0, 0.01, control=True)
ELSEWHERE = Finding("linearity", "no such layers", None, 1e-9)


def test_a_control_fails_as_it_must_and_a_check_does_not() -> None:
    found = record(HOLDS, BROKEN, CONTROL, BLIND, ELSEWHERE)
    assert [finding.words for finding in found.findings] == [
        "holds",
        "fails (!)",
        "fails, as it must",
        "passes (!)",
        "not applicable",
    ]


def test_the_summary_counts_what_could_be_checked() -> None:
    found = record(HOLDS, BROKEN, CONTROL, ELSEWHERE)
    assert found.summary == "1 of 2 checks of the axioms hold and 1 of 1 controls fail as they must, on 1 image."
    assert record(HOLDS, images=2).summary.endswith("on 2 images.") and not found.sound and record(HOLDS).sound


def test_only_a_miss_of_the_integral_may_come_from_too_few_evaluations() -> None:
    assert "attribution.max_evaluations" in (record(BROKEN).hint or "")
    exact = Finding("sensitivity", "largest |map| elsewhere", 1e-3, 0.0)
    for found in (record(HOLDS, CONTROL), record(exact), record(Finding("linearity", "", 1e-3, 1e-9))):
        assert found.hint is None


def test_there_may_be_no_audit_or_a_damaged_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert read_audit(store) is None
    store.replace(AUDIT, b'{"findings": [{"axiom": 1}]}')
    with pytest.raises(DamagedError, match=r"audit\.json is damaged \(findings\.0\.axiom: .*\); audit again"):
        read_audit(store)
