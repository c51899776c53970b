"""What a module does with an image of a given size: which layers run, in what order, with what shapes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from workers.errors import ModelError


@dataclass(frozen=True)
class Trace:
    """One run of a module.

    `events` are the paths of its submodules in the order in which their calls ended (a shared module several times).
    `shapes` are those of their last outputs. `overwritten` are the paths whose output a later operation changes in
    place, so that keeping it needs a copy. `output` is the shape of the module's result, None if the run broke off.
    Submodules whose output isn't one tensor are left out. `device` is where it ran, "meta" if nothing was computed.
    """

    events: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    overwritten: frozenset[str]
    output: tuple[int, ...] | None
    device: torch.device

    @cached_property
    def calls(self) -> Counter[str]:
        """How often each path is called."""
        return Counter(self.events)

    @cached_property
    def last(self) -> dict[str, int]:
        """The position of each path's last call in `events`, ascending."""
        last = {path: position for position, path in enumerate(self.events)}
        return dict(sorted(last.items(), key=lambda item: item[1]))

    def until(self, path: str) -> Trace:
        """The run up to the last call of `path`, less the submodules that are called again after it."""
        end = self.last[path]
        events = tuple(event for event in self.events[: end + 1] if self.last[event] <= end)
        return replace(self, events=events, output=None)


def trace(module: nn.Module, side: int) -> Trace:
    """Run `module` on 1 x 3 x side x side without computing, or, where its code needs real numbers, on zeros.

    Raises ModelError if the module can't run on such an image.
    """
    with suppress(Exception):
        return _run(module, side, torch.device("meta"))
    try:
        return _run(module, side, _device(module))
    except Exception as error:
        raise ModelError(f"the network doesn't run on an image of {side} x {side} pixels: {error}") from error


def smallest_sides(module: nn.Module, whole: Trace, side: int) -> dict[str, int]:
    """For each path of `whole`, a trace at `side`, the smallest square side in pixels that gets through it.

    Larger images are taken to get at least as far as smaller ones. The key "" is the module itself.
    """

    @cache
    def reached(side: int) -> frozenset[str]:
        return _reached(module, whole, side)

    def smallest(path: str) -> int:
        if path in reached(1):
            return 1
        return bisect_left(range(1, side), True, key=lambda side: path in reached(side)) + 1

    return {path: smallest(path) for path in (*whole.last, "")}


def has_fixed_side(module: nn.Module, whole: Trace, side: int) -> bool:
    """Whether the module takes no larger image than `side`, at which `whole` was traced."""
    return _reached(module, whole, side + 32) != {*whole.calls, ""}


def _reached(module: nn.Module, whole: Trace, side: int) -> frozenset[str]:
    part = _run(module, side, whole.device, partial=True)
    ended = {path for path, calls in part.calls.items() if calls == whole.calls[path]}
    return frozenset(ended | ({""} if part.output is not None else set()))


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _run(module: nn.Module, side: int, device: torch.device, *, partial: bool = False) -> Trace:
    events: list[str] = []
    outputs: dict[str, tuple[Tensor, int]] = {}
    result: object = None
    with torch.no_grad(), _hooks(module, _recorder(events, outputs)):
        try:
            image = torch.zeros(1, 3, side, side, device=device)
            result = functional_call(module, _on_meta(module), (image,)) if device.type == "meta" else module(image)
        except Exception:
            if not partial:
                raise
    return Trace(
        events=tuple(events),
        shapes={path: tuple(output.shape) for path, (output, _) in outputs.items()},
        overwritten=frozenset(path for path, (output, version) in outputs.items() if output._version != version),
        output=tuple(result.shape) if isinstance(result, Tensor) else None,
        device=device,
    )


def _on_meta(module: nn.Module) -> dict[str, Tensor]:
    def empty(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="meta", dtype=torch.float32 if tensor.is_floating_point() else None)

    return {name: empty(tensor) for name, tensor in chain(module.named_parameters(), module.named_buffers())}


def _recorder(events: list[str], outputs: dict[str, tuple[Tensor, int]]) -> Callable[[str, object], None]:
    def record(path: str, output: object) -> None:
        if isinstance(output, Tensor):
            events.append(path)
            outputs[path] = (output, output._version)

    return record


@contextmanager
def _hooks(module: nn.Module, record: Callable[[str, object], None]) -> Iterator[None]:
    def hook(path: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, output: record(path, output)

    handles = [child.register_forward_hook(hook(path)) for path, child in module.named_modules() if path]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
