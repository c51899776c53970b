"""The gallery's data: which columns there are, and what can be chosen by them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.report.gallery import Gallery, _line
from pipeline.report.gather import Asked, gather
from pipeline.report.measures import measures_of
from workers.records import row_schema


def gallery(rows: list[dict[str, Any]], *own: pa.Field) -> dict[str, Any]:
    common = {"unit": 0, "round": 0, "attempts": 1, "seed": 2**62 + 1, "status": "ok", "variant": ""}
    given = [
        common | {"key": f"{i:032x}", "uri": f"{i}.jpg", "objective_first": 1.0} | row for i, row in enumerate(rows)
    ]
    table = pa.Table.from_pylist(given, schema=row_schema("deepdream", own))
    measures = measures_of({}, "deepdream")
    return Gallery("deepdream", gather([table], measures, Asked(1), seed=0), measures, {}, {}).data()


def values(data: dict[str, Any], column: str) -> list[Any]:
    place = [c["name"] for c in data["columns"]].index(column)
    return [row["values"][place] for row in sorted(data["rows"], key=lambda row: row["key"])]


def test_measures_come_first_and_columns_that_are_empty_not_at_all() -> None:
    data = gallery([{"objective_last": 2.0}, {"objective_last": 5.0}])
    names = [c["name"] for c in data["columns"]]
    assert names[:3] == ["uri", "variant", "objective_gain"] and "label" not in names and "seconds" not in names
    assert values(data, "objective_gain") == [2.0, 5.0]
    assert values(data, "seed") == [str(2**62 + 1)] * 2  # as a number a browser would round it


def test_nobody_sorts_by_hashes_or_seeds() -> None:
    data = gallery([{"objective_last": 2.0, "shard": "a.tar", "source_sha256": "00"}])
    sorts = {c["name"]: c["sorts"] for c in data["columns"]}
    assert {name for name, does in sorts.items() if not does} == {"seed", "shard", "source_sha256"}
    assert sorts["uri"] and sorts["objective_gain"]


def test_a_card_says_what_its_map_is_not_known_to_be() -> None:
    row = {"target_name": "tabby", "target": 281, "probability": 0.87, "converged": None, "correct": None}
    assert _line("attribution", row) == "tabby · 87 %"
    assert _line("attribution", row | {"converged": True, "correct": True}) == "tabby · 87 %"
    doubtful = row | {"converged": False, "correct": False}
    assert _line("attribution", doubtful) == "tabby · 87 % · not converged · wrong label"


def test_a_sources_own_columns_are_kept_whatever_they_are_called() -> None:
    own = (
        pa.field("image", pa.string()),
        pa.field("objective_gain", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
    )
    rows = [{"objective_last": 2.0, "image": "a", "objective_gain": "mine", "tags": ["x"]}, {"image": "b"}]
    data = gallery(rows, *own)
    assert values(data, "image") == ["a", "b"] and values(data, "objective_gain") == ["mine", None]
    assert values(data, "tags") == ["['x']", None] and values(data, "uri") == ["0.jpg", "1.jpg"]


def test_filters_are_columns_with_few_values() -> None:
    own = (pa.field("camera", pa.string()), pa.field("caption", pa.string()), pa.field("flash", pa.bool_()))
    rows = [{"camera": f"c{i % 3}", "caption": f"caption {i}", "flash": i % 2 == 0} for i in range(9)]
    filters = gallery(rows, *own)["filters"]
    assert {f["name"]: f["choices"] for f in filters} == {"camera": ["c0", "c1", "c2"], "flash": [False, True]}
