"""Counts of a session's outputs. Pure: the time is given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of outputs.

    `total` grows while the source is being listed. `before` were committed by former sessions, `committed` by this one;
    `acked` are done and about to be committed; `made` are all that this session has done.
    """

    total: int = 0
    listing: bool = True
    before: int = 0
    committed: int = 0
    acked: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    workers: int = 0
    first_ack: float | None = None
    made: int = 0

    @property
    def done(self) -> int:
        """Outputs processed: committed, or acknowledged and about to be."""
        return min(self.total, self.before + self.committed + self.acked)

    @property
    def failed(self) -> int:
        """Failed outputs of this session."""
        return self.failures.total()

    def rate(self, now: float) -> float | None:
        """Outputs a second since this session's first, so without loading the model; None before the second."""
        if self.first_ack is None or self.made < 2 or now <= self.first_ack:
            return None
        return (self.made - 1) / (now - self.first_ack)

    def remaining(self, now: float) -> float | None:
        """Seconds to go, if that can be said."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate else None
