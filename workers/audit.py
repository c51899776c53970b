"""The audit of a run's network on a sample of its images, as one task on a worker. No torch before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from workers.assembly import Item
from workers.codec import decode
from workers.errors import PixgradError
from workers.fetch import Fetcher
from workers.params import AuditParams
from workers.records import Output, output_seed
from workers.setup import WorkerSetup, set_threads


def audit_outputs(setup: WorkerSetup, weights: Any, outputs: Sequence[Output], asked: AuditParams) -> dict[str, Any]:
    """Check the axioms on the images of `outputs`: `findings` and `randomisation`, as JSON has them.

    `weights` are the checkpoint's bytes (1-D, uint8). An expected error is an answer too: {"error": sentence}.
    """
    set_threads(setup.threads)
    try:
        return _audit(setup, weights, outputs, asked)
    except PixgradError as error:
        return {"error": str(error)}


def _audit(setup: WorkerSetup, weights: Any, outputs: Sequence[Output], asked: AuditParams) -> dict[str, Any]:
    from workers.attribution.axioms.audit import audit  # torch is loaded here, in the worker alone
    from workers.attribution.axioms.subject import as_double
    from workers.attribution.randomisation import cascade
    from workers.engine import build_engine
    from workers.engines.attribution import AttributionEngine

    fetcher = Fetcher(setup.source_root, setup.images.max_bytes)
    items = [
        Item(output, decode(fetcher.fetch(output.image), setup.images), output_seed(setup.seed, output.key))
        for output in outputs
    ]
    engine = build_engine(setup, weights)
    assert isinstance(engine, AttributionEngine)
    exact = as_double(engine.network)
    subjects = [engine.subject(item, exact, asked.intervals) for item in items]
    return {
        "findings": [finding.as_dict() for finding in audit(subjects, compile=asked.compile)],
        "randomisation": [asdict(likeness) for likeness in cascade(subjects)] if asked.randomisation else [],
    }
