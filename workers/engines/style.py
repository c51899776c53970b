"""The engine of neural style."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from workers.assembly import Item, Result
from workers.engines.base import Engine, PictureResult, Read, Step, filled, shape_of, to_pictures
from workers.errors import ImageError
from workers.features import Network
from workers.params import StyleParams
from workers.setup import WorkerSetup
from workers.storage import read_bytes
from workers.style import StyleTarget, style_target, stylise

STYLES_CACHED = 256


class StyleEngine(Engine):
    """Neural style. The targets of a style are computed once and kept, the most recently used ones."""

    def __init__(self, setup: WorkerSetup, network: Network, read: Read = read_bytes):
        super().__init__(setup, network, read)
        assert isinstance(setup.params, StyleParams)
        assert setup.params.content_layers and setup.params.style_layers
        self._params = setup.params
        self._style_layers = setup.params.style_layers
        network.prune([layer.name for layer in [*setup.params.content_layers, *setup.params.style_layers]])
        self._target = lru_cache(STYLES_CACHED)(self._style_target)

    def _style_target(self, style: int) -> StyleTarget:
        return style_target(self._network, self._picture(self._setup.styles[style]), self._style_layers)

    def run(self, items: Sequence[Item], on_step: Step) -> Sequence[Result | ImageError]:
        """As Engine.run; an item whose style is none of the job's fails."""
        known = [item for item in items if isinstance(item.output.variant.value, int)]
        results = iter(super().run(known, on_step) if known else ())
        return [next(results) if isinstance(item.output.variant.value, int) else _unknown_style(item) for item in items]

    def _compute(self, items: Sequence[Item], size: int, on_step: Step) -> Sequence[Result | ImageError]:
        items = filled(items, size)
        pixels = self._pixels(items)
        styles = [int(item.output.variant.value) for item in items]  # pyright: ignore[reportArgumentType]
        targets = [self._target(style) for style in styles]
        seeds = [item.seed for item in items]
        styled = stylise(self._network, pixels, targets, self._params, seeds, on_step=on_step)
        losses = [getattr(styled, name).tolist() for name in ("content_loss", "style_loss", "total_loss")]
        results: list[Result | ImageError] = []
        for i, picture in enumerate(to_pictures(styled.images)):
            style = self._setup.styles[styles[i]]
            columns = {
                "style_uri": style.uri,
                "style_sha256": style.sha256,
                "content_loss": losses[0][i],
                "style_loss": losses[1][i],
                "total_loss": losses[2][i],
                "iterations": styled.iterations[i],
            }
            failed = isinstance(picture, ImageError)
            results.append(picture if failed else PictureResult(picture, columns, shape_of(pixels)))
        return results


def _unknown_style(item: Item) -> ImageError:
    wanted = item.output.variant.value
    return ImageError("unknown_style", f"The style column says {wanted!r}, which is none of the job's styles")
