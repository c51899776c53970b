"""How many workers a run may have while others use the same cluster: a pure rule that every driver applies alone.

A cluster shared by n jobs owes each of them an n-th of its room. What a job doesn't ask for the others may use; once it
asks, they go down to their own n-th. Drivers need not speak with each other: Ray knows what every job holds and asks
for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """What a job's actors hold, and what they wait for, in workers of the run that asks."""

    held: float = 0.0
    waiting: float = 0.0


def allowed_workers(most: int | None, room: int, mine: str, others: Mapping[str, Demand]) -> int:
    """The workers that the run `mine` may have, of a cluster with `room` for so many, at least one.

    `most` is what the run asks for at most; it may be more than there is room for, so that an autoscaler sees it. None
    asks for no more than there is. `others` are the other jobs by their ids.
    """
    others = {job: demand for job, demand in others.items() if demand.held or demand.waiting}
    fair = fair_shares(room, [mine, *others])
    due = {job: max(d.held, min(d.held + d.waiting, fair[job])) for job, d in others.items()}
    left = max(1, fair[mine], room - math.ceil(sum(due.values())))
    if most is None:
        return left
    return min(most, left) if any(due[job] > others[job].held for job in others) else most


def fair_shares(room: int, jobs: Iterable[str]) -> dict[str, int]:
    """`room` workers divided among jobs; what can't be divided goes to the first by their ids, the oldest."""
    ids = sorted(set(jobs))
    return {job: room // len(ids) + (place < room % len(ids)) for place, job in enumerate(ids)}
