"""The audit of an attribution run: the axioms on its own network and a sample of its images, kept as `audit.json`."""

from __future__ import annotations

import json
import random
from typing import Any

from pipeline.cluster import Resources, RunStopped, cluster, on_worker
from pipeline.plan import Plan
from pipeline.provenance import now, read_run, versions
from pipeline.sample import draw, outputs_of
from workers.audit import audit_outputs
from workers.layout import AUDIT
from workers.params import AttributionParams, AuditParams
from workers.setup import WorkerSetup
from workers.storage import MissingError, Store
from workers.weights import WeightsFile

Audit = dict[str, Any]

SAMPLE_COLUMNS = ("uri", "member", "variant", "unit", "target", "source_sha256")


def make_audit(
    store: Store, plan: Plan, setup: WorkerSetup, weights: WeightsFile, resources: Resources, asked: AuditParams
) -> Audit:
    """Check the axioms on a sample of a run's images, on a worker of its kind, and write `audit.json`.

    Raises RunStopped if there is no image to take or the check can't be made; StorageError.
    """
    assert isinstance(setup.params, AttributionParams)
    sample = draw(store, asked.sample, random.Random(setup.seed), SAMPLE_COLUMNS)
    if not sample:
        raise RunStopped("There is nothing to audit: the run has made no output.", 4)
    with cluster():
        result = on_worker(audit_outputs, resources, setup, weights.read(), outputs_of(plan, sample), asked)
    if error := result.get("error"):
        raise RunStopped(f"The audit can't be made: {error}", 4)
    run = read_run(store) or {}
    images = [{name: row[name] for name in ("key", *SAMPLE_COLUMNS)} for row in sample]
    audit = {
        "made": now(),
        "fingerprint": run.get("fingerprint"),
        "model": run.get("model"),
        "device": run.get("fixed", {}).get("device"),
        "precision": setup.precision,
        "versions": versions(),
        "asked": asked.model_dump(),
        "images": images,
        "sound": all(finding["as_expected"] for finding in result["findings"]),
        **result,
    }
    store.replace(AUDIT, json.dumps(audit, indent=1).encode())
    return audit


def read_audit(store: Store) -> Audit | None:
    """The run's `audit.json`, None if there is none. Raises StorageError."""
    try:
        return json.loads(store.read(AUDIT))
    except MissingError:
        return None


def summary(audit: Audit) -> str:
    """In one line: how many axioms hold, and how many controls fail as they must."""
    made = [finding for finding in audit["findings"] if finding["verdict"] != "not applicable"]
    groups = [[f["as_expected"] for f in made if f["control"] == control] for control in (False, True)]
    (holding, checks), (failing, controls) = [(sum(group), len(group)) for group in groups]
    return (
        f"{holding} of {checks} checks of the axioms hold and {failing} of {controls} controls fail as they must, "
        f"on {len(audit['images'])} images."
    )
