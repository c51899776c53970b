"""What is explained: a class's logit or probability, or by how much it exceeds that of another class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workers.errors import ModelError


class Target(NamedTuple):
    """The class that is explained, and the class that it is held against, if any; both by index."""

    category: int
    against: int | None = None


def as_target(target: int | Tensor | Target) -> Target:
    """A class's index, as a number or a tensor of one, made a target; a target as it is."""
    return target if isinstance(target, Target) else Target(int(target))


def objective(logits: Tensor, targets: Sequence[Target], kind: Literal["logit", "softmax"]) -> Tensor:
    """F of each row (B) from its logits (B x classes): the target's score, less that of the class it is held against.

    The score is the logit, or the probability (in fp64). Raises ModelError for a class that the network doesn't have.
    """
    highest = max(max(target.category, target.against or 0) for target in targets)
    classes = logits.shape[1]
    if highest >= classes:
        raise ModelError(f"there is no class {highest}: the network's {classes} classes are numbered from 0")
    scores = logits.double().softmax(1) if kind == "softmax" else logits
    values = _pick(scores, [target.category for target in targets])
    if all(target.against is None for target in targets):
        return values
    held = torch.tensor([target.against is not None for target in targets], device=logits.device)
    return values - _pick(scores, [target.against or 0 for target in targets]) * held


def _pick(scores: Tensor, classes: Sequence[int]) -> Tensor:
    return scores.gather(1, torch.tensor(classes, device=scores.device).view(-1, 1)).squeeze(1)
