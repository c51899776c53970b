"""What a network predicts, so that the class it explains can be chosen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workers.features import LOGITS, Network
from workers.precision import full_precision


@torch.no_grad()
def predict(network: Network, images: Tensor, *, batch: int, on_step: Callable[[], None] = lambda: None) -> Tensor:
    """Logits (N x classes, in the network's dtype) of `images` (N x 3 x H x W in [0, 1]).

    Every evaluation has exactly `batch` rows, the last one filled with copies, so that an image's logits don't depend
    on its companions. `on_step` is called after each evaluation.
    """
    logits = []
    with full_precision():
        for start in range(0, len(images), batch):
            rows = torch.arange(start, start + batch).clamp_max(len(images) - 1)
            logits.append(network(images[rows.to(images.device)], [LOGITS])[LOGITS])
            on_step()
    return torch.cat(logits)[: len(images)]
