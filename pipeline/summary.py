"""What the rows of an attribution run say on the whole and for each class, kept as `summary.json`."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.commit import latest_rows
from workers.layout import SUMMARY
from workers.storage import MissingError, Store

COLUMNS = (
    "variant",
    "status",
    "target",
    "target_name",
    "predicted",
    "label_class",
    "correct",
    "probability",
    "attribution_l1",
    "map_error",
    "evaluations",
    "converged",
    "flags",
)
MEANS = ("probability", "attribution_l1", "map_error", "evaluations", "deletion_auc", "insertion_auc")


def write_summary(store: Store, first_variant: str) -> dict[str, Any]:
    """Sum up a complete attribution run, and write it. Each image counts once for accuracy, by its first variant."""
    columns = [*COLUMNS, "deletion_auc", "insertion_auc"]
    rows = (row for table in latest_rows(store, columns) for row in table.to_pylist())
    found = summarise(rows, first_variant)
    store.replace(SUMMARY, json.dumps(found, indent=1).encode())
    return found


def read_summary(store: Store) -> dict[str, Any] | None:
    """The run's `summary.json`, None if there is none. Raises StorageError."""
    try:
        return json.loads(store.read(SUMMARY))
    except MissingError:
        return None


def accuracy_line(found: Mapping[str, Any]) -> str | None:
    """Top-1 accuracy in words, None if no label names a class."""
    labelled, correct = found["labelled"], found["correct"]
    if not labelled:
        return None
    return f"Top-1 accuracy {correct / labelled:.1%}: the label is predicted for {correct} of {labelled} images."


def summary_lines(found: Mapping[str, Any]) -> list[str]:
    """For people: the accuracy, and how many outputs have which flag."""
    flags = [f"  {outputs:,} {flag.replace('_', ' ')}" for flag, outputs in found["flags"].items()]
    return [*filter(None, [accuracy_line(found)]), *flags]


@dataclass
class _Class:
    """The ok rows that explain one class."""

    name: str | None
    outputs: int = 0
    converged: int = 0
    judged: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        self.outputs += 1
        self.judged += row["converged"] is not None
        self.converged += row["converged"] is True
        self.flags.update(row["flags"] or ())
        for name in MEANS:
            if (value := row.get(name)) is not None:
                self.totals[name] += value
                self.counts[name] += 1

    def as_dict(self, target: int) -> dict[str, Any]:
        means = {f"mean_{name}": self.totals[name] / self.counts[name] for name in MEANS if self.counts[name]}
        share = {"converged_share": self.converged / self.judged} if self.judged else {}
        flags = dict(sorted(self.flags.items()))
        return {"target": target, "name": self.name, "outputs": self.outputs, **share, **means, "flags": flags}


def summarise(rows: Iterable[Mapping[str, Any]], first_variant: str) -> dict[str, Any]:
    """Accuracy over images with a label that names a class, flags over all outputs, and figures for each class.

    Memory: one entry a class.
    """
    classes: dict[int, _Class] = {}
    labels: defaultdict[int, Counter[bool]] = defaultdict(Counter)
    for row in rows:
        if row["status"] != "ok":
            continue
        classes.setdefault(row["target"], _Class(row["target_name"])).add(row)
        if row["variant"] == first_variant and row["correct"] is not None:
            labels[row["label_class"]][row["correct"]] += 1
    return {
        "labelled": sum(counts.total() for counts in labels.values()),
        "correct": sum(counts[True] for counts in labels.values()),
        "outputs": sum(one.outputs for one in classes.values()),
        "flags": dict(sorted(sum((one.flags for one in classes.values()), Counter()).items())),
        "classes": [classes[target].as_dict(target) for target in sorted(classes)],
        "labels": [
            {"label_class": label, "images": labels[label].total(), "correct": labels[label][True]}
            for label in sorted(labels)
        ],
    }
