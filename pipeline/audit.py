"""The audit of an attribution run: the axioms on its own network and a sample of its images, kept as `audit.json`."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.cluster import Resources, RunStopped, cluster, on_worker
from pipeline.findings import AuditRecord
from pipeline.plan import Plan
from pipeline.provenance import now, read_run, versions
from pipeline.sample import draw, outputs_of
from pipeline.signals import stop_on_signals
from workers.audit import Step, audit_outputs
from workers.layout import AUDIT
from workers.params import AttributionParams, AuditParams
from workers.setup import WorkerSetup
from workers.storage import Store
from workers.weights import WeightsFile

SAMPLE_COLUMNS = ("uri", "member", "variant", "unit", "target", "source_sha256")


def make_audit(
    store: Store,
    plan: Plan,
    setup: WorkerSetup,
    weights: WeightsFile,
    resources: Resources,
    asked: AuditParams,
    tell: Callable[[Step], None],
    stopped: threading.Event,
) -> AuditRecord:
    """Check the axioms on a sample of a run's images, on a worker of its kind, and write `audit.json`.

    Each step is told; `stopped` is set by signals until Ray has started. Raises RunStopped if there is no image,
    the check can't be made or a signal ends it; StorageError.
    """
    assert isinstance(setup.params, AttributionParams)
    sample = draw(store, asked.sample, random.Random(setup.seed), SAMPLE_COLUMNS)
    if not sample:
        raise RunStopped("There is nothing to audit: the run has made no output.", 4)
    try:
        with cluster(), stop_on_signals() as stop:  # once more, as Ray's start puts in a handler of its own
            if stopped.is_set():
                stop.set()
            arguments = setup, weights.read(), outputs_of(plan, sample), asked
            result = _told(on_worker(audit_outputs, resources, stop, *arguments), tell)
    except KeyboardInterrupt:
        raise RunStopped("Interrupted.", 130) from None
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
        "sound": AuditRecord(findings=result["findings"]).sound,
        **result,
    }
    store.replace(AUDIT, json.dumps(audit, indent=1).encode())
    return AuditRecord.model_validate(audit)


def _told(answers: Iterator[Step | dict[str, Any]], tell: Callable[[Step], None]) -> dict[str, Any]:
    """The last answer; the steps before it are told."""
    for answer in answers:
        if not isinstance(answer, Step):
            return answer
        tell(answer)
    raise RunStopped("The audit ended without an answer.", 4)
