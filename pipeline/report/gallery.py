"""The gallery's data: columns, rows and filters, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.report.album import Picture
from pipeline.report.gather import Gathered
from pipeline.report.measures import Measure
from pipeline.report.sources import Image
from pipeline.report.top import Row
from pipeline.report.words import cell, figure, image_name, image_place, share
from workers.records import Task, reserved_columns, row_schema

NOT_SHOWN = frozenset(("key", "member", "status", "error_code", "error", "transform"))
NOT_SORTED_BY = frozenset(("seed", "shard", "shard_member"))
"""Columns that a reader has no use to sort by; nor by hashes."""
FILTERS = frozenset(("variant", "label", "target_name", "converged", "correct", "stop_reason"))
MOST_FILTERS = 4
MOST_CHOICES = 30
TITLES = {"uri": "Image", "target_name": "Class", "correct": "Top-1 correct"}
COMMON = reserved_columns("deepdream") & reserved_columns("attribution")
"""Columns of every run: they come last."""


class Gallery:
    """The rows that are shown, and where their pictures are."""

    def __init__(
        self,
        task: Task,
        gathered: Gathered,
        measures: Sequence[Measure],
        outputs: Mapping[str, Picture],
        sources: Mapping[Image, Picture],
    ):
        self._task: Task = task
        self._measures = measures
        self._outputs = outputs
        self._sources = sources
        self._columns = gathered.schema.names if gathered.schema else []
        self._groups = _groups(gathered, measures)
        self._rows = {row["key"]: row for _, _, rows in self._groups for row in rows if row["status"] == "ok"}
        self._derived = self._derive()

    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        values = {key: self._values(key, row) for key, row in self._rows.items()}
        columns = [n for n in self._ordered() if any(v[n] is not None for v in values.values())]
        own = reserved_columns(self._task) | {measure.name for measure in self._measures}
        return {
            "columns": [
                {"name": n, "title": _title(n), "text": _is_text(n, values), "sorts": _sorts(n)} for n in columns
            ],
            "filters": _filters([n for n in columns if n in FILTERS or n not in own], values),
            "groups": [{"name": name, "title": title} for name, title, rows in self._groups if rows and title],
            "rows": [
                {
                    "key": key,
                    "title": image_name(row),
                    "line": _line(self._task, row),
                    "figures": self._figures(key),
                    "before": _picture(self._sources.get((row["uri"], row["member"]))),
                    "after": _picture(self._outputs.get(key)),
                    "alt": _alt(self._task, row),
                    "scale": cell(row.get("heatmap_scale")),
                    "groups": [name for name, _, rows in self._groups if any(r["key"] == key for r in rows)],
                    "values": [values[key][n] for n in columns],
                }
                for key, row in self._rows.items()
            ],
        }

    def _ordered(self) -> list[str]:
        """Columns: which output it is, what was measured on it, the task's and the source's own, the rest."""
        of_rows = [n for n in self._columns if n not in NOT_SHOWN]
        first = [n for n in ("uri", "variant", "label") if n in of_rows]
        derived = [m.name for m in self._measures if m.name not in of_rows]
        own = [n for n in of_rows if n not in COMMON]
        return list(dict.fromkeys([*first, *derived, *own, *of_rows]))

    def _values(self, key: str, row: Row) -> dict[str, Any]:
        """By column; a source's own column goes before a measure of its name."""
        return {name: cell(value) for name, value in (self._derived[key] | row | {"uri": image_place(row)}).items()}

    def _derive(self) -> dict[str, dict[str, float | bool | None]]:
        """Measures of the rows; a yes or no stays one."""
        if not self._rows:
            return {}
        table = pa.Table.from_pylist(list(self._rows.values()), schema=row_schema(self._task))
        found: dict[str, dict[str, float | bool | None]] = {key: {} for key in self._rows}
        for measure in self._measures:
            for key, value in zip(found, measure.values(table).tolist(), strict=True):
                known = None if np.isnan(value) else value
                found[key][measure.name] = known if measure.scale != "yes or no" or known is None else bool(known)
        return found

    def _figures(self, key: str) -> list[list[str]]:
        shown = [m for m in self._measures if m.scale == "log" and m.name != "seconds"][:2]
        known = ((m.title, self._derived[key][m.name]) for m in shown)
        return [[title, figure(value)] for title, value in known if value is not None]


def _groups(gathered: Gathered, measures: Sequence[Measure]) -> list[tuple[str, str, list[Row]]]:
    """Name, title and rows; the grid's rows are there to be opened and are no choice of their own."""
    worst = [(m.name, m.superlative, gathered.worst[m.name]) for m in measures if m.worst]
    return [("sample", "Random sample", gathered.sample), *worst, ("grid", "", gathered.grid)]


def _filters(columns: Sequence[str], values: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those of these columns that hold text, or yes and no, with few enough values to choose from."""
    found = []
    for name in columns:
        choices = {v[name] for v in values.values()} - {None}
        if 2 <= len(choices) <= min(MOST_CHOICES, len(values) - 1) and all(isinstance(c, str | bool) for c in choices):
            found.append({"name": name, "title": _title(name), "choices": sorted(choices, key=str)})
    return found[:MOST_FILTERS]


def _sorts(name: str) -> bool:
    return name not in NOT_SORTED_BY and not name.endswith("sha256")


def _is_text(name: str, values: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(isinstance(v[name], str | bool) for v in values.values())


def _title(name: str) -> str:
    words = (name[:1].upper() + name[1:]).replace("_", " ")
    return TITLES.get(name, words.replace("sha256", "SHA-256").replace(" uri", " URI"))


def _picture(picture: Picture | None) -> dict[str, Any] | None:
    return asdict(picture) if picture else None


def _line(task: str, row: Row) -> str:
    """What was made of the image, in a few words."""
    if task == "style":
        return row["variant"] or (row["style_uri"] or "").rpartition("/")[2]
    if task == "attribution":
        name = row["target_name"] or f"class {row['target']}"
        doubts = {"not converged": row["converged"] is False, "wrong label": row["correct"] is False}
        return " · ".join(
            [name, share(row["probability"] or 0, 1), *(words for words, holds in doubts.items() if holds)]
        )
    return row["label"] or ""


def _alt(task: str, row: Row) -> str:
    name = image_name(row)
    if task == "style":
        return f"{name} in the style of {_line(task, row)}"
    if task == "attribution":
        return f"Attribution map of {name} for {row['target_name'] or row['target']}"
    return f"Dream of {name}"
