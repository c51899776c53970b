"""What is measured on an output of each task, which of it is bad, and how far it may go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.classes import class_index
from workers.errors import ModelError

Values = NDArray[np.float64]
SHARE_BELOW = 1e-300
"""A denominator that is no larger counts as zero."""


@dataclass(frozen=True)
class Measure:
    """A number for each row of a table, NaN where it has none.

    `scale` says how it is distributed: over orders of magnitude, over [0, 1], or as yes and no (1 and 0). `worst` is
    the end of which examples are shown. `limit` is the job's tolerance, above which a value is out of bounds.
    """

    name: str
    title: str
    meaning: str
    values: Callable[[pa.Table], Values]
    scale: Literal["log", "unit", "yes or no"] = "log"
    worst: Literal["highest", "lowest"] | None = None
    limit: float | None = None

    @property
    def superlative(self) -> str:
        """What the worst ones are called: Highest total loss."""
        return f"{(self.worst or '').capitalize()} {self.title[0].lower()}{self.title[1:]}"

    def badness(self, values: Values) -> Values:
        """Scores for rows: the worst has the highest."""
        return -values if self.worst == "lowest" else values


def column(table: pa.Table, name: str) -> Values:
    """A numeric or Boolean column as floating point numbers, NaN for null."""
    found = table.column(name)
    if pa.types.is_boolean(found.type):
        found = found.cast(pa.int8())
    return found.cast(pa.float64()).to_numpy()


def measures_of(fields: Mapping[str, Any], task: str) -> list[Measure]:
    """The measures of a run, given its fingerprint's fields and its task."""
    seconds = Measure("seconds", "Seconds an output", "its share of its batch's computing time", _column("seconds"))
    return [*_OF_TASK[task](fields), seconds]


def _column(name: str) -> Callable[[pa.Table], Values]:
    return lambda table: column(table, name)


def _ratio(above: Values, below: Values) -> Values:
    with np.errstate(all="ignore"):
        return np.where(np.abs(below) > SHARE_BELOW, above / below, np.nan)


def _gain(table: pa.Table) -> Values:
    return _ratio(column(table, "objective_last"), column(table, "objective_first"))


def _completeness(table: pa.Table) -> Values:
    change = column(table, "objective_value") - column(table, "baseline_value")
    return np.abs(_ratio(column(table, "completeness_delta"), change))


def _deepdream(_fields: Mapping[str, Any]) -> list[Measure]:
    meaning = "the objective at the end over that at the beginning, both of the last stage"
    return [Measure("objective_gain", "Objective gain", meaning, _gain, worst="lowest")]


def _style(_fields: Mapping[str, Any]) -> list[Measure]:
    return [
        Measure(
            "total_loss", "Total loss", "the weighted sum that was minimised", _column("total_loss"), worst="highest"
        ),
        Measure("content_loss", "Content loss", "relative squared error of the features", _column("content_loss")),
        Measure(
            "style_loss", "Style loss", "relative squared error of the style layers' statistics", _column("style_loss")
        ),
    ]


def _attribution(fields: Mapping[str, Any]) -> list[Measure]:
    section = fields["attribution"]
    tolerance = section["tolerance"] if section["rule"] == "adaptive" else {}
    return [
        Measure(
            "completeness_error",
            "Completeness error",
            "|δ| / |F(x) − F(x′)|: how far the map's sum is from the change it has to explain",
            _completeness,
            worst="highest",
            limit=tolerance.get("completeness"),
        ),
        Measure(
            "map_error",
            "Map error",
            "the estimated relative L1 error of the map itself",
            _column("map_error"),
            worst="highest",
            limit=tolerance.get("map"),
        ),
        Measure(
            "probability",
            "Probability",
            "given to the target class",
            _column("probability"),
            "unit",
            "lowest",
        ),
        Measure("converged", "Converged", "within both tolerances", _column("converged"), "yes or no"),
        Measure("correct", "Top-1 correct", "the most probable class is the label", _correct(fields), "yes or no"),
    ]


_OF_TASK: dict[str, Callable[[Mapping[str, Any]], list[Measure]]] = {
    "deepdream": _deepdream,
    "style": _style,
    "attribution": _attribution,
}


def _correct(fields: Mapping[str, Any]) -> Callable[[pa.Table], Values]:
    """Whether the predicted class is the label; NaN without a label, or with one that is no class of the network."""
    names: Sequence[str] | None = fields["model"].get("classes")

    @lru_cache(maxsize=100_000)
    def index(label: str) -> float:
        try:
            return class_index(label, len(names) if names else 2**31, names)
        except ModelError:
            return np.nan

    def values(table: pa.Table) -> Values:
        labels = table.column("label").to_pylist()
        wanted = np.array([np.nan if label is None else index(label) for label in labels], dtype=np.float64)
        predicted = column(table, "predicted")
        return np.where(np.isnan(wanted) | np.isnan(predicted), np.nan, (wanted == predicted).astype(np.float64))

    return values
