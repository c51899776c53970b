"""The engine of a task, made from a worker's setup."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.engines.attribution import AttributionEngine
from workers.engines.base import Engine, Read
from workers.engines.dream import DreamEngine
from workers.engines.style import StyleEngine
from workers.models import build_network
from workers.setup import WorkerSetup
from workers.storage import read_bytes

_ENGINES: dict[str, type[Engine]] = {
    "deepdream": DreamEngine,
    "style": StyleEngine,
    "attribution": AttributionEngine,
}


def build_engine(setup: WorkerSetup, weights: NDArray[np.uint8], read: Read = read_bytes) -> Engine:
    """The engine of a setup, with the network built from the weights' bytes; `read` gives the job's own images.

    Raises ModelError.
    """
    network = build_network(
        setup.model,
        weights,
        device=setup.device,
        categories=setup.categories,
        allow_code=setup.allow_code,
    )
    return _ENGINES[setup.task](setup, network, read)
