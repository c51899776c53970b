"""A frozen network seen from its pixels: named activations of a batch, computed no deeper than needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from workers.errors import ModelError
from workers.layers import LOGITS, LayerInfo, unknown_layer
from workers.trace import trace

__all__ = ["LOGITS", "Network"]


class _Cut(Exception):
    """Control flow: the deepest layer asked for has been computed."""


class Network(nn.Module):
    """A frozen pretrained CNN with its preprocessing built in.

    Calling it maps pixels (B x 3 x H x W, RGB in [0, 1]) to a dict of activations, one for each layer asked for
    (B x C x h x w, or B x classes for `LOGITS`), and runs the network only to the deepest of them. Gradients flow to
    the pixels and never to the weights. An activation is what its layer gave, even if the network goes on to change it
    in place (the sum of a residual block, a functional ReLU).

    `name` is the model's, by which the layers that suit a task are known. `aliases` maps friendly layer names
    (`relu4_2`) to module paths (`features.22`). `mean` and `std` are RGB in [0, 1]. `input_side` is a side in pixels
    that the network accepts. With `dtype` bfloat16 the network runs under autocast; activations then come out as
    bfloat16. `categories` are the names of the classes, in order, if they are known; `trace` is what the network does
    at `input_side`. Raises ModelError if it can't run on an image of that side.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        name: str = "",
        aliases: Mapping[str, str] | None = None,
        categories: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
        input_side: int = 224,
    ):
        super().__init__()
        for child in module.modules():
            if getattr(child, "inplace", False) is True:
                child.__dict__["inplace"] = False
        self.name = name
        self.module = module.eval().requires_grad_(False)
        self.aliases = dict(aliases or {})
        self.categories = list(categories) if categories is not None else None
        self.dtype = dtype
        self.input_side = input_side
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.trace = trace(module, input_side)
        if dtype == torch.bfloat16:
            self.halve()

    def forward(self, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Activations of `layers` for `pixels` (B x 3 x H x W in [0, 1]).

        Raises ModelError for a layer the network doesn't have.
        """
        paths = {name: self.resolve(name) for name in layers}
        captured: dict[str, Tensor] = {}
        inputs = (pixels - self.mean) / self.std
        to_the_end = LOGITS in paths.values()
        with suppress(_Cut), self._cast(), self._capture(set(paths.values()) - {LOGITS}, captured, cut=not to_the_end):
            captured[LOGITS] = self.module(inputs)
        return {name: captured[path] for name, path in paths.items()}

    @property
    def classes(self) -> int | None:
        """The number of classes it scores, None without a classifier."""
        output = self.trace.output
        return output[1] if output is not None and len(output) == 2 else None

    def resolve(self, layer: str) -> str:
        """The module path of a layer given by its path, its friendly name, or `LOGITS`. Raises ModelError."""
        path = self.aliases.get(layer, layer)
        if path == LOGITS:
            if self.classes is None:
                raise ModelError("these weights have no classifier: choose others for classes and attribution")
        elif path not in self.trace.calls:
            raise unknown_layer(layer, self.layer_names())
        return path

    def layer_names(self) -> list[str]:
        """All layers in order of execution, by friendly name where there is one."""
        return [layer.name for layer in self.layers()]

    def layers(self) -> list[LayerInfo]:
        """All layers in order of execution, measured at `input_side`; `min_side` is left at 1."""
        friendly = {path: name for name, path in self.aliases.items()}
        return [self._info(friendly.get(path, path), path) for path in self.trace.last]

    def prune(self, layers: Sequence[str]) -> None:
        """Free the weights of everything that computing `layers` doesn't need. Deeper layers are then unknown.

        Results for `layers` stay the same bit for bit.
        """
        paths = {self.resolve(name) for name in layers}
        if LOGITS in paths:
            return
        deepest = self._deepest(paths)
        needed = set(self.trace.events[: self.trace.last[deepest] + 1])
        for path in self.trace.calls.keys() - needed:
            if not any(self.module.get_submodule(path).children()):
                parent, _, attribute = path.rpartition(".")
                setattr(self.module.get_submodule(parent), attribute, nn.Identity())
        self.trace = self.trace.until(deepest)

    def pool_by_average(self) -> None:
        """Replace each max pooling by average pooling over the same windows. Raises ModelError if there is none.

        Gatys et al. (2016): the gradient then reaches every pixel of a window, not only the largest.
        """
        pools = [(path, m) for path, m in self.module.named_modules() if isinstance(m, nn.MaxPool2d)]
        if not pools:
            raise ModelError("this network has no max pooling layers that could average; set pooling: max")
        for path, pool in pools:
            average = nn.AvgPool2d(
                pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode, count_include_pad=False
            )
            parent, _, attribute = path.rpartition(".")
            setattr(self.module.get_submodule(parent), attribute, average)

    def halve(self) -> None:
        """Run under autocast to bfloat16 from now on, the weights that it would round on every call rounded once."""
        self.dtype = torch.bfloat16
        for child in self.module.modules():
            if type(child) in (nn.Conv2d, nn.Linear):
                child.to(torch.bfloat16)

    def _info(self, name: str, path: str) -> LayerInfo:
        shape = self.trace.shapes[path]
        is_map = len(shape) == 4 and shape[2] == shape[3]
        return LayerInfo(
            name=name,
            path=path,
            kind=type(self.module.get_submodule(path)).__name__,
            channels=shape[1] if is_map else None,
            stride=max(1, round(self.input_side / shape[2])) if is_map else None,
        )

    def _deepest(self, paths: set[str]) -> str:
        return max(paths, key=self.trace.last.__getitem__)

    @contextmanager
    def _capture(self, paths: set[str], captured: dict[str, Tensor], *, cut: bool) -> Iterator[None]:
        last = self._deepest(paths) if cut and paths else None
        remaining = {path: self.trace.calls[path] for path in paths}

        def hook(path: str):
            def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
                remaining[path] -= 1
                captured[path] = output
                if path == last and remaining[path] == 0:
                    raise _Cut
                return output.clone() if path in self.trace.overwritten else None

            return keep

        handles = [self.module.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _cast(self):
        return torch.autocast(self.mean.device.type, dtype=self.dtype, enabled=self.dtype == torch.bfloat16)
