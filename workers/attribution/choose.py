"""Which class of an image is explained: chosen from its logits and label."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from workers.attribution.objective import Target
from workers.classes import class_index
from workers.errors import ImageError, ModelError


def choose(wanted: int | str, logits: Tensor, label: str | None, names: Sequence[str] | None) -> Target:
    """The target that a variant's value asks for, given the image's logits (classes) and label.

    `wanted` is a class by index or name, `predicted`, `label`, `top:<rank>` (0 is the most probable class), or
    `contrast:<a>:<b>` of two of these, where b may be `runner_up`: the most probable class besides a.
    Raises ImageError: not_finite, no_label, unknown_class, same_class.
    """
    if not logits.isfinite().all():
        raise ImageError("not_finite", "The network's logits for this image hold NaN or infinity")
    if not isinstance(wanted, str) or not wanted.startswith("contrast:"):
        return Target(_one(wanted, logits, label, names))
    first, second = wanted.removeprefix("contrast:").split(":", 1)
    if first == "runner_up":
        against = _one(second, logits, label, names)
        return Target(_runner_up(logits, against), against)
    target = _one(first, logits, label, names)
    against = _runner_up(logits, target) if second == "runner_up" else _one(second, logits, label, names)
    if target == against:
        raise ImageError("same_class", f"Both sides of the contrast are class {target} for this image")
    return Target(target, against)


def label_class(label: str | None, classes: int, names: Sequence[str] | None) -> int | None:
    """The class that a label names, by index or name; None without a label, or if it names none of the network's."""
    try:
        return None if label is None else class_index(label, classes, names)
    except ModelError:
        return None


def _one(wanted: int | str, logits: Tensor, label: str | None, names: Sequence[str] | None) -> int:
    if wanted == "predicted":
        return int(logits.argmax())
    if isinstance(wanted, str) and wanted.startswith("top:"):
        return int(logits.argsort(descending=True)[int(wanted.removeprefix("top:"))])
    if wanted == "label":
        if label is None:
            raise ImageError("no_label", "The image has no label to explain: set source.labels or another target")
        wanted = label
    try:
        return class_index(wanted, len(logits), names)
    except ModelError as error:
        raise ImageError("unknown_class", f"{error}") from error


def _runner_up(logits: Tensor, other: int) -> int:
    return next(int(index) for index in logits.argsort(descending=True) if int(index) != other)
