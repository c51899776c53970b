"""The audit of a run's network on a sample of its images, as one task on a worker. No torch before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workers.assembly import Item
from workers.codec import decode
from workers.errors import PixgradError
from workers.fetch import Fetcher
from workers.params import AuditParams
from workers.records import Output, output_seed
from workers.setup import WorkerSetup, set_threads


@dataclass(frozen=True)
class Step:
    """What an audit is at: the `number`th image, or stage of the loss of weights, of so many."""

    what: str
    number: int
    of: int

    @property
    def words(self) -> str:
        """For people."""
        return f"Axioms: {self.what} {self.number} of {self.of}"


def audit_outputs(
    setup: WorkerSetup, weights: Any, outputs: Sequence[Output], asked: AuditParams
) -> Iterator[Step | dict[str, Any]]:
    """Check the axioms on the images of `outputs`: each step as it begins, then `findings` and `randomisation`.

    `weights` are the checkpoint's bytes (1-D, uint8). An expected error is an answer too: {"error": sentence}.
    """
    set_threads(setup.threads)
    try:
        yield from _audit(setup, weights, outputs, asked)
    except PixgradError as error:
        yield {"error": str(error)}


def _audit(
    setup: WorkerSetup, weights: Any, outputs: Sequence[Output], asked: AuditParams
) -> Iterator[Step | dict[str, Any]]:
    from workers.attribution.axioms.audit import check_image  # torch is loaded here, in the worker alone
    from workers.attribution.axioms.finding import over_images
    from workers.attribution.axioms.subject import as_double
    from workers.attribution.randomisation import cascade, stages_of
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
    found = []
    for number, subject in enumerate(subjects, 1):
        yield Step("image", number, len(subjects))
        found.append(check_image(subject, compile=asked.compile))
    likenesses, stages = cascade(subjects), stages_of(engine.network) if asked.randomisation else []
    randomisation = []
    for number in range(1, len(stages) + 1):
        yield Step("loss of weights", number, len(stages))
        randomisation.append(asdict(next(likenesses)))
    yield {"findings": [finding.as_dict() for finding in over_images(found)], "randomisation": randomisation}
