"""Neural style (Gatys, Ecker and Bethge, CVPR 2016) for many images at once, each with a style of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from workers.adam import Adam
from workers.colors import keep_chroma
from workers.descent import Descent
from workers.features import Network
from workers.latest import Latest
from workers.lbfgs import Lbfgs
from workers.octaves import style_sizes
from workers.params import StyleParams
from workers.resize import resize
from workers.style_losses import StyleLosses, StyleTarget, style_target

TRACE_POINTS = 20
"""Of a loss trace at each scale, besides the start."""

REFILL = 8
"""New canvases are put up when an eighth of an easel is free: their features cost a third of an iteration."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image to paint: the content (3 x H x W in [0, 1]), the targets of its style, one a scale, and its seed."""

    content: Tensor
    targets: Sequence[StyleTarget]
    seed: int


@dataclass(frozen=True)
class Painting:
    """A stylised image (3 x H x W in [0, 1]) and what is left of its losses.

    `content_loss`, `style_loss` and `total_loss` are those of this very image, before `colors: luminance` puts the
    chroma back, the first two without their weights; `iterations` are the optimiser's steps at all scales.
    `trace` are iterations and the total loss then, the best so far; each scale begins anew.
    """

    image: Tensor
    content_loss: float
    style_loss: float
    total_loss: float
    iterations: int
    trace: list[tuple[int, float]]


@dataclass(frozen=True)
class StyleResult:
    """Stylised images, and what is left of their losses: those of `Painting`, for a batch.

    `images` are B x 3 x H x W in [0, 1], in the dtype and on the device of the contents. `content_loss`, `style_loss`
    and `total_loss` are B, fp64, on the CPU.
    """

    images: Tensor
    content_loss: Tensor
    style_loss: Tensor
    total_loss: Tensor
    iterations: list[int]
    traces: list[list[tuple[int, float]]]


Supply = Callable[[int], Sequence[Canvas]]
"""Gives up to so many further canvases, as many as there are now."""


def style_targets(network: Network, image: Tensor, params: StyleParams) -> list[StyleTarget]:
    """The targets of one style image (1 x 3 x H x W in [0, 1], of any size) for each scale, the coarsest first.

    Raises ModelError for a layer the network doesn't have.
    """
    sizes = style_sizes(image.shape[2], image.shape[3], params.scales)
    return [style_target(network, resize(image, size).clamp(0, 1), params.style_layers or []) for size in sizes]


def stylise(
    network: Network,
    contents: Tensor,
    targets: Sequence[Sequence[StyleTarget]],
    params: StyleParams,
    seeds: Sequence[int],
    *,
    on_step: Callable[[], None] = lambda: None,
) -> StyleResult:
    """Paint `contents` (B x 3 x H x W in [0, 1]) as one batch, each in the style of its own targets; see `paint`."""
    canvases = [Canvas(*each) for each in zip(contents, targets, seeds, strict=True)]
    waiting = deque(canvases)

    def supply(most: int) -> Sequence[Canvas]:
        return [waiting.popleft() for _ in range(min(most, len(waiting)))]

    found = dict(chain.from_iterable(paint(network, supply, params, batch=len(canvases), on_step=on_step)))
    paintings = [found[canvas] for canvas in canvases]

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(painting, name) for painting in paintings], dtype=torch.float64)

    return StyleResult(
        torch.stack([painting.image for painting in paintings]),
        column("content_loss"),
        column("style_loss"),
        column("total_loss"),
        [painting.iterations for painting in paintings],
        [painting.trace for painting in paintings],
    )


def paint(
    network: Network,
    supply: Supply,
    params: StyleParams,
    *,
    batch: int,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Sequence[tuple[Canvas, Painting]]]:
    """Paint canvases of one size, `batch` at a time, until `supply` gives no more; each comes out when it is done.

    Minimises the total of `StyleLosses` over pixels in [0, 1], for each image alone, from the start that `params` ask
    for; each scale begins with the enlarged result of the coarser one. The network always sees `batch` images; whoever
    is done at a scale leaves its place to another, so no result depends on its company. `on_step` is called before
    each step of the optimiser.

    `params` must name its content and style layers. Raises ModelError for a layer the network doesn't have.
    """
    easels = [_Easel(network, params, batch, scale) for scale in range(params.scales)]
    while True:
        scale = next((scale for scale in reversed(range(1, params.scales)) if easels[scale].load >= batch), 0)
        if scale == 0:
            if room := batch - easels[0].load:
                easels[0].waiting += [_Work(canvas, _start(canvas, params)) for canvas in supply(room)]
            scale = next((scale for scale in range(params.scales) if easels[scale].load), None)
        if scale is None:
            return
        on_step()
        done = easels[scale].step()
        if scale + 1 < params.scales:
            easels[scale + 1].waiting += done
        elif done:
            yield [(work.canvas, work.painting(params)) for work in done]


@dataclass(eq=False)
class _Work:
    """A canvas on its way through the scales. What is known of it stays on the device until it is painted."""

    canvas: Canvas
    image: Tensor
    losses: Tensor | None = None  # content, style, total
    iterations: list[Tensor] = field(default_factory=list)  # one a scale
    traces: list[Tensor] = field(default_factory=list)

    def painting(self, params: StyleParams) -> Painting:
        assert self.losses is not None
        content, style, total = self.losses.double().tolist()
        total_taken, trace = 0, []
        for scale, (taken, losses) in enumerate(zip(map(int, self.iterations), self.traces, strict=True)):
            marks = _marks(taken, params.iterations_at(scale))
            trace += [(total_taken + mark, loss) for mark, loss in zip(marks, losses.tolist(), strict=False)]
            total_taken += taken
        image = self.image
        if params.colors == "luminance":
            image = keep_chroma(image[None], self.canvas.content[None])[0]
        return Painting(image, content, style, total, total_taken, trace)


def _stride(iterations: int) -> int:
    return -(-iterations // TRACE_POINTS)


def _marks(taken: int, iterations: int) -> list[int]:
    """The iterations at which a trace has points."""
    return sorted({*range(0, taken, _stride(iterations)), taken})


class _Easel:
    """`batch` places at one scale, painted together. Copies stand in for canvases where there are too few."""

    def __init__(self, network: Network, params: StyleParams, batch: int, scale: int):
        self.waiting: deque[_Work] = deque()
        self._network = network
        self._params = params
        self._scale = scale
        self._places: list[_Work | None] = [None] * batch
        self._losses: StyleLosses | None = None
        self._descent: Descent | None = None
        self._done = Latest()

    @property
    def load(self) -> int:
        """How many canvases are here or wait to be put up."""
        return len(self.waiting) + sum(work is not None for work in self._places)

    def step(self) -> list[_Work]:
        """One step of all that stand here, after putting up who waits; who is known to be done leaves."""
        free = [place for place, work in enumerate(self._places) if work is None]
        if self.waiting and len(free) * REFILL >= len(self._places):
            self._put_up(free)
        assert self._descent is not None and self._losses is not None
        taken = self._descent.step(partial(self._evaluate, self._losses))
        self._best = torch.where(taken[:, None], self._evaluated, self._best)
        stride = _stride(self._params.iterations_at(self._scale))
        mark = (self._descent.iterations + stride - 1) // stride
        self._trace.scatter_(1, mark[:, None], self._descent.loss.to(self._trace)[:, None])
        return [self._leave(place) for place in self._done.tell(self._descent.done) if self._places[place]]

    def _put_up(self, free: Sequence[int]) -> None:
        coming = {place: self.waiting.popleft() for place in free[: len(self.waiting)]}
        for place, work in coming.items():
            self._places[place] = work
        self._done.forget(coming)
        stand_in = next(iter(coming.values()))
        works = [coming.get(place, stand_in) for place in range(len(self._places))]
        contents = torch.stack([work.canvas.content for work in works])
        self._size = style_sizes(contents.shape[2], contents.shape[3], self._params.scales)[self._scale]
        frames = resize(contents, self._size).clamp(0, 1)
        targets = [work.canvas.targets[self._scale] for work in works]
        losses = StyleLosses.of(self._network, frames, targets, self._params)
        start = _flatten(resize(torch.stack([work.image for work in works]), self._size).clamp(0, 1))
        new = torch.tensor([place in coming for place in range(len(works))], device=start.device)
        if self._descent is None or self._losses is None:
            self._losses, self._descent = losses, _descent(start, self._params, self._scale)
            self._best = start.new_zeros(len(works), 3)
            self._trace = start.new_zeros(len(works), TRACE_POINTS + 1, dtype=torch.float32)
            self._descent.done |= ~new
        else:
            self._losses = self._losses.replaced(new, losses)
            self._descent.begin(new, start)

    def _evaluate(self, losses: StyleLosses, flat: Tensor) -> tuple[Tensor, Tensor]:
        flat = flat.detach().requires_grad_()
        parts = losses(_unflatten(flat, self._size))
        (gradient,) = torch.autograd.grad(parts[2].sum(), flat)
        self._evaluated = torch.stack(parts, 1).detach()
        return parts[2].detach(), gradient

    def _leave(self, place: int) -> _Work:
        work = self._places[place]
        assert work is not None and self._descent is not None
        self._places[place] = None
        work.image = _unflatten(self._descent.point[place][None].clone(), self._size)[0]
        work.losses = self._best[place]
        work.iterations.append(self._descent.iterations[place])
        work.traces.append(self._trace[place].clone())
        return work


def _descent(start: Tensor, params: StyleParams, scale: int) -> Descent:
    limits = {"iterations": params.iterations_at(scale), "plateau": params.plateau, "lower": 0.0, "upper": 1.0}
    if params.optimizer == "adam":
        return Adam(start, learning_rate=params.learning_rate, **limits)
    return Lbfgs(start, history=params.history, **limits)


def _start(canvas: Canvas, params: StyleParams) -> Tensor:
    content = canvas.content
    if params.init == "noise":
        return torch.rand(content.shape, generator=torch.Generator().manual_seed(canvas.seed)).to(content)
    return content if params.init == "content" else torch.full_like(content, 0.5)


def _flatten(images: Tensor) -> Tensor:
    """Rows in channels_last order, so that `_unflatten` is a view in the layout the network likes best."""
    return images.permute(0, 2, 3, 1).flatten(1)


def _unflatten(rows: Tensor, size: tuple[int, int]) -> Tensor:
    return rows.view(len(rows), *size, 3).permute(0, 3, 1, 2)
