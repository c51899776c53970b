"""What the rows say on the whole: accuracy by image, figures by class, flags."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.summary import accuracy_line, summarise


def row(target: int | None, **columns: Any) -> dict[str, Any]:
    name = None if target is None else "abc"[target]
    plain = {"variant": "top1", "status": "ok", "target": target, "target_name": name, "label_class": None}
    figures = {"correct": None, "probability": 0.5, "map_error": 0.02, "evaluations": 33, "converged": True}
    return {**plain, **figures, "flags": [], **columns}


ROWS = [
    row(0, label_class=0, correct=True, probability=0.9),
    row(1, variant="top2", label_class=0, correct=True, probability=0.05, flags=["against_class"]),
    row(1, label_class=0, correct=False, flags=["wrong_prediction", "not_converged"], converged=False, map_error=None),
    row(2, converged=None, map_error=None),
    row(None, status="failed"),
]


def test_an_image_counts_once_for_accuracy_and_only_with_a_label() -> None:
    found = summarise(ROWS, "top1")
    assert (found["labelled"], found["correct"], found["outputs"]) == (2, 1, 4)
    assert accuracy_line(found) == "Top-1 accuracy 50.0%: the label is predicted for 1 of 2 images."
    assert found["labels"] == [{"label_class": 0, "images": 2, "correct": 1}]
    assert accuracy_line(summarise(ROWS[3:], "top1")) is None


def test_each_class_has_its_means_and_flags() -> None:
    found = summarise(ROWS, "top1")
    assert found["flags"] == {"against_class": 1, "not_converged": 1, "wrong_prediction": 1}
    first, second, third = found["classes"]
    assert (first["name"], first["outputs"], first["mean_probability"]) == ("a", 1, 0.9)
    assert second["mean_probability"] == pytest.approx(0.275) and second["mean_map_error"] == 0.02
    assert second["converged_share"] == 0.5 and second["flags"] == found["flags"]
    assert "converged_share" not in third and "mean_map_error" not in third and "mean_deletion_auc" not in third
