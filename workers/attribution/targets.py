"""The class that an attribution explains: what the network predicts, or what a person names."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

import torch
from torch import Tensor

from workers.attribution.precision import full_precision
from workers.errors import ModelError
from workers.features import LOGITS, Network


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


def resolve_target(network: Network, target: int | str) -> int:
    """The index of a class given by index, by name, or by one of the comma-separated synonyms in its name.

    Case doesn't matter, and a whole name goes before a synonym. Raises ModelError for an index out of range, for a name
    that no class or more than one class has, and for any name if the network has no class names.
    """
    names = network.categories
    if isinstance(target, str) and target.strip().isdecimal() and target.strip() not in (names or ()):
        target = int(target)
    if isinstance(target, int):
        if target < 0 or (names is not None and target >= len(names)):
            last = "" if names is None else f" to {len(names) - 1}"
            raise ModelError(f"there is no class {target}: the network's classes are numbered from 0{last}")
        return target
    if names is None:
        raise ModelError(f"the network has no class names: give the index of {target!r}, or the names as model.classes")
    return _class_named(target, names)


def _class_named(wanted: str, names: list[str]) -> int:
    key = wanted.strip().casefold()
    by_name = [i for i, name in enumerate(names) if name.strip().casefold() == key]
    found = by_name or [i for i, name in enumerate(names) if key in _synonyms(name)]
    if len(found) > 1:
        raise ModelError(f"{wanted!r} names the classes {', '.join(map(str, found))}: give the index of the one meant")
    if not found:
        near = get_close_matches(key, sorted({synonym for name in names for synonym in _synonyms(name)}), n=5)
        hint = f"the nearest names are {', '.join(near)}" if near else "give a class name of the network, or an index"
        raise ModelError(f"unknown class {wanted!r}: {hint}")
    return found[0]


def _synonyms(name: str) -> list[str]:
    return [part.strip().casefold() for part in name.split(",")]
