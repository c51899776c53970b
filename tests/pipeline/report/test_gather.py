"""One pass over rows: what is counted, averaged, drawn and found worst."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from pipeline.report import classes as classes_module
from pipeline.report.classes import REST, Classes
from pipeline.report.gather import EXAMPLES, GRID_CONTENTS, SAMPLE, WORST, Asked, Gathered, gather
from pipeline.report.measures import measures_of

MakeTable = Callable[..., pa.Table]

FIELDS = {
    "model": {"classes": ["cat", "dog"]},
    "attribution": {"rule": "adaptive", "tolerance": {"completeness": 0.05, "map": 0.1}},
}


def attribution(predicted: int, delta: float, *, label: str | None = None, converged: bool = True) -> dict:
    return {
        "label": label,
        "target": predicted,
        "target_name": FIELDS["model"]["classes"][predicted],
        "predicted": predicted,
        "probability": 0.5,
        "objective_value": 3.0,
        "baseline_value": 1.0,
        "completeness_delta": delta,
        "map_error": 0.01,
        "evaluations": 17,
        "converged": converged,
        "stop_reason": "converged" if converged else "max_evaluations",
    }


def gathered(tables: list[pa.Table], column: str | None = "label") -> Gathered:
    return gather(tables, measures_of(FIELDS, "attribution"), Asked(1, class_column=column), seed=0)


def test_accuracy_convergence_and_completeness(table: MakeTable) -> None:
    rows = [
        attribution(0, 0.02, label="cat"),
        attribution(1, -0.2, label="cat", converged=False),
        attribution(1, 0.4, label="dog"),
        attribution(1, 0.0, label="unicorn"),  # no class of the network: neither right nor wrong
        {"label": "dog", "error_code": "empty", "error": "The file is empty."},
    ]
    found = gathered([table("attribution", rows[:2]), table("attribution", rows[2:])])
    assert (found.outputs, found.ok, found.failures) == (5, 4, {"empty": 1})
    assert found.shares == {"correct": (3, 2), "converged": (4, 3)}
    completeness = found.distributions["completeness_error"]
    assert (completeness.count, completeness.zeros, completeness.beyond) == (4, 1, 2)
    assert completeness.highest == pytest.approx(0.2)
    assert found.stop_reasons == {"converged": 3, "max_evaluations": 1} and found.evaluations == {17: 4}
    assert [row["completeness_delta"] for row in found.worst["completeness_error"]] == [0.4, -0.2, 0.02, 0.0]
    assert found.classes is not None
    by_name = {row.name: row for row in found.classes.rows(9)}
    correct = [m.name for m in measures_of(FIELDS, "attribution")].index("correct")
    assert (by_name["dog"].outputs, by_name["dog"].failed) == (2, 1)
    assert by_name["cat"].means[correct] == 0.5 and np.isnan(by_name["unicorn"].means[correct])


def test_a_target_that_moves_nothing_has_no_completeness_error(table: MakeTable) -> None:
    rows = [attribution(0, 0.1) | {"baseline_value": 3.0}]
    assert gathered([table("attribution", rows)]).distributions["completeness_error"].count == 0


def test_samples_are_bounded_and_depend_on_no_order(table: MakeTable) -> None:
    def part(start: int) -> pa.Table:
        rows = [attribution(0, 0.001 * i) | {"key": f"{i:032x}", "uri": f"{i}.jpg"} for i in range(start, start + 50)]
        failed = {"key": f"f{start:031x}", "uri": f"bad{start}.jpg", "error_code": "empty", "error": "It is empty."}
        return table("attribution", [*rows, failed])

    parts = [part(start) for start in range(0, 1000, 50)]
    one, other = gathered(parts), gathered(parts[::-1])
    assert len(one.sample) == SAMPLE and one.sample == other.sample
    assert len(one.worst["completeness_error"]) == WORST
    assert one.worst["completeness_error"][0]["uri"] == "999.jpg"
    assert len(one.examples["empty"]) == EXAMPLES and one.examples == other.examples
    assert all(row["status"] == "ok" for row in one.sample)


def test_a_grid_has_whole_images(table: MakeTable) -> None:
    rows = [
        {"key": f"{i:031x}{v}", "uri": f"{i}.jpg", "variant": style, "total_loss": 1.0}
        for i in range(100)
        for v, style in enumerate(("dots", "waves", "lines"))
    ]
    whole = table("style", rows)
    parts = [whole.slice(start, 7) for start in range(0, 300, 7)]
    found = gather(parts, measures_of({}, "style"), Asked(3, is_grid=True), seed=1)
    assert len(found.grid) == 3 * GRID_CONTENTS
    assert len({row["uri"] for row in found.grid}) == GRID_CONTENTS


def test_more_classes_than_are_kept_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes_module, "MOST_CLASSES", 100)
    classes = Classes("label", 1)
    names = [f"caption {i}" for i in range(500)] + [None]
    values = np.append(np.arange(500.0), 1e9)
    classes.add(pa.table({"label": pa.array(names, pa.string())}), np.zeros(501, dtype=bool), [values])
    rows = {row.name: row for row in classes.rows(1000)}
    assert len(rows) == 101 and rows[REST].outputs == 400
    assert rows[REST].means == [np.arange(100, 500).mean()] and rows["caption 7"].means == [7.0]
