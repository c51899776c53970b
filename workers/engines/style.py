"""The engine of neural style."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import isfinite

from torch import Tensor

from workers.assembly import Item, Lot, Result
from workers.batching import Frame
from workers.colors import match_colors
from workers.engines.base import Engine, PictureResult, Read, Step, Supply, shape_of, to_pictures
from workers.errors import ImageError
from workers.features import Network
from workers.folding import working_form
from workers.octaves import style_sizes
from workers.params import StyleParams
from workers.setup import WorkerSetup
from workers.storage import read_bytes
from workers.style import Canvas, Painting, paint, style_targets
from workers.style_losses import StyleTarget, blended

STYLE_CACHE_BYTES = 2**29
"""Of targets that a worker keeps, those used last: 200 styles of VGG19 at one scale."""


class StyleEngine(Engine):
    """Neural style. The targets of a style are computed once and kept, the most recently used ones."""

    def __init__(self, setup: WorkerSetup, network: Network, read: Read = read_bytes):
        assert isinstance(setup.params, StyleParams)
        assert setup.params.content_layers and setup.params.style_layers
        layers = [layer.name for layer in [*setup.params.content_layers, *setup.params.style_layers]]
        super().__init__(setup, working_form(network, layers, setup.params.pooling, setup.precision), read)
        self._params = setup.params
        kept = max(1, STYLE_CACHE_BYTES // self._target_bytes())
        self._targets = lru_cache(kept)(self._style_targets)
        self._style_pixels = lru_cache(16)(self._read_style)

    def _target_bytes(self) -> int:
        """Of a style's targets, all channels of a layer counted."""
        named = {layer.name for layer in self._params.style_layers or []}
        channels = [layer.channels or 1 for layer in self._network.layers() if {layer.name, layer.path} & named]
        return 4 * self._params.scales * sum(n * n + n for n in channels)

    def _smallest_input(self, frame: Frame) -> Frame:
        return style_sizes(*frame, self._params.scales)[0]

    def _read_style(self, style: int) -> Tensor:
        return self._picture(self._setup.styles[style], scale=self._params.style_scale)

    def _style_targets(self, style: int) -> Sequence[StyleTarget]:
        return style_targets(self._network, self._read_style(style), self._params)

    def _targets_of(self, style: int, content: Tensor) -> Sequence[StyleTarget]:
        """The targets, one a scale, for a content image (3 x H x W), the styles being blended if the job says so."""
        blend = self._params.blend
        styles = range(len(blend)) if blend else [style]
        if self._params.colors == "histogram":
            recoloured = [match_colors(self._style_pixels(i), content[None]) for i in styles]
            targets = [style_targets(self._network, pixels, self._params) for pixels in recoloured]
        else:
            targets = [self._targets(i) for i in styles]
        return [blended(scale, blend) for scale in zip(*targets, strict=True)] if blend else targets[0]

    def _compute(self, items: Sequence[Item], size: int, on_step: Step, more: Supply) -> Iterator[Lot]:
        coming, refused, known = deque(items), list[Item](), dict[Canvas, Item]()

        def supply(most: int) -> Sequence[Canvas]:
            if len(coming) < most:
                coming.extend(more(most - len(coming)))
            taken = [coming.popleft() for _ in range(min(most, len(coming)))]
            good = [item for item in taken if isinstance(item.output.variant.value, int)]
            refused.extend(item for item in taken if item not in good)
            pixels = self._pixels(good) if good else ()
            canvases = [self._canvas(item, content) for item, content in zip(good, pixels, strict=True)]
            known.update(zip(canvases, good, strict=True))
            return canvases

        for lot in paint(self._network, supply, self._params, batch=size, on_step=on_step):
            done = [(known.pop(canvas), painting) for canvas, painting in lot]
            yield [(item, self._result(item, painting, size)) for item, painting in done]
        yield [(item, _unknown_style(item)) for item in refused]

    def _canvas(self, item: Item, content: Tensor) -> Canvas:
        return Canvas(content, self._targets_of(_style(item), content), item.seed)

    def _result(self, item: Item, painting: Painting, size: int) -> Result | ImageError:
        [picture] = to_pictures(painting.image[None])
        if isinstance(picture, ImageError):
            return picture
        if not isfinite(painting.total_loss):
            return _overflowed()
        columns = {
            **self._style_columns(_style(item)),
            "content_loss": painting.content_loss,
            "style_loss": painting.style_loss,
            "total_loss": painting.total_loss,
            "iterations": painting.iterations,
            "trace_iterations": [iteration for iteration, _ in painting.trace],
            "trace_loss": [loss for _, loss in painting.trace],
        }
        return PictureResult(picture, columns, shape_of(size, painting.image))

    def _style_columns(self, style: int) -> dict[str, str]:
        """Which style it was; of a blend all, in the order of the weights."""
        used = self._setup.styles if self._params.blend else [self._setup.styles[style]]
        return {"style_uri": " + ".join(s.uri for s in used), "style_sha256": " + ".join(s.sha256 for s in used)}


def _style(item: Item) -> int:
    assert isinstance(item.output.variant.value, int), "one of the job's styles"
    return item.output.variant.value


def _unknown_style(item: Item) -> ImageError:
    wanted = item.output.variant.value
    return ImageError("unknown_style", f"The style column says {wanted!r}, which is none of the job's styles")


def _overflowed() -> ImageError:
    return ImageError("not_finite", "The loss is NaN or infinite for this image: choose smaller weights, or fp32")
