"""What is known of a session's progress, folded from its events. Pure: the time is given.

The driver's own display and `status --watch` have the same tally: one sees the events happen, the other reads them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.progress.pace import Pace
from workers.usage import Usage

DEATHS = frozenset(("worker_died", "worker_lost", "worker_hung", "out_of_memory"))
"""Events after which a worker is no more."""

SETTLED = 30.0
"""Seconds of commits after which the time to go is told from them; until then from outputs done."""


@dataclass(frozen=True)
class Load:
    """What the workers take together, in cores and bytes; `gpu` (0 to 1) and `gpu_memory` are means over GPUs."""

    cpus: float
    memory: int
    gpu: float | None = None
    gpu_memory: int | None = None

    @classmethod
    def of(cls, usages: Collection[Usage]) -> Load:
        """The sum of these."""
        gpu = [u.gpu for u in usages if u.gpu is not None]
        taken = [u.gpu_memory for u in usages if u.gpu_memory is not None]
        return cls(
            cpus=sum(u.cpus for u in usages),
            memory=sum(u.memory for u in usages),
            gpu=sum(gpu) / len(gpu) if gpu else None,
            gpu_memory=sum(taken) // len(taken) if taken else None,
        )


@dataclass
class Tally:
    """Counts of outputs and workers.

    `total` grows while the source is being listed. `before` were committed by former sessions, `commits` by this one;
    `acked` are done and about to be committed; `made` are all that this session has done. `failures` are this
    session's, by code, and so are `seconds`, by stage, of what it committed. `restarts` are workers that had to be
    replaced. `gpus`: of one worker. `began`: when the first event was seen.
    """

    gpus: float = 0.0
    began: float | None = None
    total: int = 0
    listing: bool = True
    before: int = 0
    acked: int = 0
    made: Pace = field(default_factory=Pace)
    commits: Pace = field(default_factory=Pace)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    workers: int = 0
    starting: int = 0
    restarts: int = 0
    stopping: bool = False
    load: Load | None = None

    @property
    def committed(self) -> int:
        """Outputs that are safe, whatever happens."""
        return self.before + self.commits.count

    @property
    def done(self) -> int:
        """Outputs processed: committed, or acknowledged and about to be."""
        return min(self.total, self.committed + self.acked)

    @property
    def failed(self) -> int:
        """Failed outputs of this session."""
        return self.failures.total()

    def ack(self, outputs: int, now: float) -> None:
        """Outputs were processed."""
        self.acked += outputs
        self.made.add(outputs, now)

    def see(self, event: str, facts: Mapping[str, Any], now: float) -> None:
        """Fold an event in."""
        self.began = now if self.began is None else self.began
        if event == "committed":
            self._commit(facts, now)
        elif event == "progress":
            self._recall(facts, now)
        elif event == "worker_starting":
            self.starting += 1
        elif event in ("worker_ready", "worker_start_failed"):
            self.starting -= 1
            self.workers += event == "worker_ready"
        elif event in DEATHS:
            self.workers -= 1
            self.restarts += 1
        elif event == "stopping":
            self.stopping = True

    def _commit(self, facts: Mapping[str, Any], now: float) -> None:
        self.commits.add(facts["outputs"], now)
        self.acked = max(0, self.acked - facts["outputs"])
        if (untold := self.commits.count - self.made.count) > 0:
            self.made.add(untold, now)  # acknowledgements are no events, so who reads a log doesn't know of them
        self.failures.update(facts["failures"])
        for stage, seconds in facts["seconds"].items():
            self.seconds[stage] += seconds

    def _recall(self, facts: Mapping[str, Any], now: float) -> None:
        """What a tally read from a log can't know of its own."""
        self.gpus, self.total, self.listing = facts["gpus_per_worker"], facts["outputs"], facts["listing"]
        self.before = facts["committed_before"]
        self.load = Load(**facts["load"]) if facts["load"] else None
        self.acked = facts["done"] - facts["committed"]
        if made := self.commits.count + self.acked - self.made.count:
            self.made.add(max(0, made), now)

    def rate(self, now: float) -> float | None:
        """Outputs a second in the last minutes, without loading the model and the first batch; None at first."""
        return self.made.rate(now)

    def rate_each(self, now: float) -> float | None:
        """The same for one GPU, or for one worker without."""
        rate = self.rate(now)
        return rate / (self.workers * (self.gpus or 1)) if rate is not None and self.workers else None

    def remaining(self, now: float) -> float | None:
        """Seconds to go, if that can be said: from what is committed, as work that was lost counts twice elsewhere."""
        if self.listing:
            return None
        if self.commits.span >= SETTLED:
            return self.commits.seconds_for(self.total - self.committed, now)
        return self.made.seconds_for(self.total - self.done, now)

    def shares(self) -> dict[str, float]:
        """How the workers' threads spent their time, by stage; {} before the first commit. Stages overlap in time."""
        total = sum(self.seconds.values())
        return {stage: seconds / total for stage, seconds in self.seconds.items()} if total else {}

    def facts(self, now: float) -> dict[str, Any]:
        """All of it as JSON has it, with names that stand for themselves: see `docs/design.md`."""
        return {
            "outputs": self.total,
            "listing": self.listing,
            "done": self.done,
            "committed": self.committed,
            "committed_before": self.before,
            "failures": dict(self.failures),
            "outputs_per_second": _rounded(self.rate(now)),
            "outputs_per_second_each": _rounded(self.rate_each(now)),
            "seconds_to_go": _rounded(self.remaining(now)),
            "workers": self.workers,
            "workers_starting": self.starting,
            "worker_restarts": self.restarts,
            "gpus_per_worker": self.gpus,
            "shares": {stage: round(share, 4) for stage, share in self.shares().items()},
            "load": asdict(self.load) if self.load else None,
            "stopping": self.stopping,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
