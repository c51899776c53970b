"""How long a run waits for room on a cluster, and when it says so. A pure state machine; the clock is the caller's."""

from __future__ import annotations

SAY_EVERY = 30.0
"""Seconds between two words about it."""

SPAWN_SECONDS = 30.0
"""How long a process may take to come to life on a node that has room, so that this isn't taken for a lack of room."""


class Patience:
    """Waits for `wait` seconds, None: as long as it takes."""

    def __init__(self, wait: float | None):
        self._wait = wait
        self._since: float | None = None
        self._said = 0.0

    def is_over(self, lacking: bool, now: float) -> bool:
        """Told again and again whether there is no room for a single worker: whether to give up."""
        if not lacking:
            self._since = None
        elif self._since is None:
            self._since = self._said = now
        waited = 0.0 if self._since is None else now - self._since
        return self._wait is not None and waited > max(self._wait, SPAWN_SECONDS)

    def is_time_to_say(self, now: float) -> bool:
        """Whether it is time for a word about it, again."""
        if self._since is None or now - self._said < SAY_EVERY:
            return False
        self._said = now
        return True
