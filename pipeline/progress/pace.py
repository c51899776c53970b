"""How fast a count grows. Pure: the time is given, in seconds of any one clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW = 300.0
"""Seconds that a rate looks back, so that it follows workers that come and go."""

MARK_EVERY = 1.0
"""Seconds between the marks that are kept."""

SPAN = 2.0
"""Seconds that marks must be apart, from the first to the last, for a rate to mean something."""


@dataclass
class Pace:
    """A count that grows from time to time.

    Rates begin with the first mark and leave out what came with it, so loading a model and the first batch don't count.
    """

    count: int = 0
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, number: int, now: float) -> None:
        """The count has grown by `number`."""
        self.count += number
        if len(self._marks) > 1 and self._marks[-1][0] - self._marks[-2][0] < MARK_EVERY:
            self._marks.pop()
        self._marks.append((now, self.count))
        while len(self._marks) > 2 and self._marks[1][0] < now - WINDOW:
            self._marks.popleft()

    @property
    def span(self) -> float:
        """Seconds from the first mark of the window to the last."""
        return self._marks[-1][0] - self._marks[0][0] if self._marks else 0.0

    def rate(self, now: float) -> float | None:
        """Growth a second up to now, None before that can be said."""
        if self.span < SPAN:
            return None
        began, before = self._marks[0]
        return (self.count - before) / (now - began)

    def seconds_for(self, more: int, now: float) -> float | None:
        """Seconds from now until the count has grown by `more`.

        Told as of the last mark, so that it runs down evenly between two marks; once the next one is overdue, from
        the rate up to now.
        """
        rate = self.rate(now)
        if not rate:
            return None
        last = self._marks[-1][0]
        told = more / (rate * (now - self._marks[0][0]) / self.span) - (now - last)
        return told if told > 0 else more / rate
