"""Items of one frame made into batches, across units, first come first served."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

Frame = tuple[int, int]
"""Height and width in pixels."""

T = TypeVar("T")


class Batcher(Generic[T]):
    """Keeps items by frame until `size(frame)` of them make a batch."""

    def __init__(self, size: Callable[[Frame], int]):
        self._size = size
        self._waiting: OrderedDict[Frame, deque[T]] = OrderedDict()

    def add(self, frame: Frame, item: T) -> None:
        """Put an item at the end of its frame's queue."""
        self._waiting.setdefault(frame, deque()).append(item)

    def take(self, *, partial: bool) -> list[T] | None:
        """The first full batch; with `partial` and none full, what the longest waiting frame has; else None."""
        full = (frame for frame, items in self._waiting.items() if len(items) >= self._size(frame))
        frame = next(full, None)
        if frame is None and partial:
            frame = next(iter(self._waiting), None)
        if frame is None:
            return None
        items = self._waiting.pop(frame)
        batch = [items.popleft() for _ in range(min(len(items), self._size(frame)))]
        if items:
            self._waiting[frame] = items  # behind the others: its turn was now
        return batch

    def take_more(self, frame: Frame, most: int) -> list[T]:
        """Up to `most` further items of a frame whose turn it is; none if another frame's batch is full."""
        if any(len(items) >= self._size(other) for other, items in self._waiting.items() if other != frame):
            return []
        items = self._waiting.get(frame, deque())
        taken = [items.popleft() for _ in range(min(len(items), most))]
        if not items:
            self._waiting.pop(frame, None)
        return taken
