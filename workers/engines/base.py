"""What the engines share: batches of one fixed shape a frame, and what becomes of them when memory runs out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.assembly import Item, Lot, Result
from workers.batching import Frame
from workers.codec import Pixels, decode, encode_png, to_uint8
from workers.errors import DeviceError, ImageError, ModelError, first_line
from workers.features import Network
from workers.geometry import picture_params
from workers.params import ImageParams
from workers.setup import Picture, WorkerSetup
from workers.storage import read_bytes

Step = Callable[[], None]
Read = Callable[[str], bytes]
Supply = Callable[[int], Sequence[Item]]
"""Gives up to so many further items that wait, of the same frame."""


@dataclass(frozen=True)
class PictureResult:
    """A picture, H x W x 3 uint8, and its columns."""

    pixels: Pixels
    columns: dict[str, Any]
    batch_shape: str

    def encode(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """As PNG."""
        return {"png": encode_png(self.pixels)}, self.columns


class Engine(ABC):
    """Runs batches of one fixed shape a frame, so that no result depends on its company."""

    def __init__(self, setup: WorkerSetup, network: Network, read: Read = read_bytes):
        self._setup = setup
        self._network = network
        self._read = read
        self._fits: dict[Frame, int] = {}  # smaller batches than planned, where memory ran out

    def batch_size(self, frame: Frame) -> int:
        """Items in a batch of this frame."""
        return self._fits.get(frame) or self._setup.batch.size(frame)

    def run(self, items: Sequence[Item], on_step: Step) -> Sequence[Result | ImageError]:
        """A result, or the reason why there is none, for each item; all are of one frame."""
        results = dict(chain.from_iterable(self.stream(items, on_step, lambda count: ())))
        return [results[item] for item in items]

    def stream(self, items: Sequence[Item], on_step: Step, more: Supply) -> Iterator[Lot]:
        """Each item's result, or the reason why there is none, as soon as there is one; all are of one frame.

        Where an item is done before its companions, `more` is asked for others to take its place. Where memory runs
        out, what was under way begins again in batches half as large, of which later ones are too.
        """
        frame = items[0].decoded.frame
        smallest = self._smallest_input(frame)
        if min(smallest) < self._setup.min_side:
            yield [(item, self._too_small(frame, smallest)) for item in items]
            return
        size = self.batch_size(frame)
        left = dict.fromkeys(items)

        def take(count: int) -> Sequence[Item]:
            taken = more(count)
            left.update(dict.fromkeys(taken))
            return taken

        while left:
            try:
                for lot in self._compute(list(left)[:size], size, on_step, take):
                    for item, _ in lot:
                        del left[item]
                    yield lot
                if size < self.batch_size(frame):
                    self._fits[frame] = size
            except torch.AcceleratorError as error:
                raise DeviceError(first_line(error)) from error
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if size == 1:
                    raise MemoryError(first_line(error)) from None
                size //= 2
                torch.cuda.empty_cache()

    @abstractmethod
    def _compute(self, items: Sequence[Item], size: int, on_step: Step, more: Supply) -> Iterator[Lot]:
        """Results of at most `size` items, and of more of them as others are done; the network sees just `size`."""

    def _smallest_input(self, frame: Frame) -> Frame:
        return frame

    def _too_small(self, frame: Frame, smallest: Frame) -> ImageError:
        least = self._setup.min_side
        return ImageError(
            "too_small",
            f"The network needs {least} x {least} pixels at these layers, and this image of {frame[1]} x {frame[0]} "
            f"gives it {smallest[1]} x {smallest[0]}: choose earlier layers, fewer octaves or scales, "
            "larger tiles or a larger short_side",
        )

    def _pixels(self, items: Sequence[Item]) -> Tensor:
        stacked = torch.from_numpy(np.stack([item.decoded.pixels for item in items])).to(self._setup.device)
        return stacked.permute(0, 3, 1, 2).float().div(255)  # a view of H x W x 3: channels_last as it is

    def _picture(self, picture: Picture, params: ImageParams | None = None, scale: float = 1.0) -> Tensor:
        """An image that the job names: 1 x 3 x H x W; without `params` at the job's short side times `scale`."""
        data = self._read(picture.uri)
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise ModelError(f"{picture.uri} changed since the run began; put the former file back.")
        pixels = decode(data, params or picture_params(self._setup.images, scale)).pixels
        return torch.from_numpy(pixels).to(self._setup.device).permute(2, 0, 1)[None].float().div(255)


def _is_out_of_memory(error: Exception) -> bool:
    """On a CPU torch says it with a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def shape_of(size: int, image: Tensor) -> str:
    """The shape of a batch of so many images for the rows: of 8, each 3 x H x W, "8x3x256x256"."""
    return "x".join(map(str, (size, *image.shape)))


def filled(items: Sequence[Item], size: int) -> Sequence[Item]:
    """A full batch: copies behind the items."""
    return [*items, *[items[-1]] * (size - len(items))]


def to_pictures(images: Tensor) -> list[Pixels | ImageError]:
    """B x 3 x H x W in [0, 1] as pictures; one that isn't finite is an error of its own."""
    pictures: list[Pixels | ImageError] = []
    for image in images.permute(0, 2, 3, 1).float().cpu().numpy():
        try:
            pictures.append(to_uint8(image))
        except ImageError as error:
            pictures.append(error)
    return pictures
