"""Images that end, hang or starve their worker: exactly these fail, with the right code, and the rest is as ever."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pipeline.config import UnitParams
from workers.storage import encode

KINDS = ("exit", "kill", "segv", "abort", "hang", "spin", "memory")
STAGES = ("decode", "compute", "encode")
CODES = {"memory": "out_of_memory", "hang": "timeout", "spin": "timeout", "raise": "unexpected"}


def expected(names: list[str]) -> dict[str, str]:
    """The code that a row should have, by URI, for each name that asks for a fault."""
    kinds = {name: re.search(r"(\w+)@", name) for name in names}
    return {encode(f"{name}.png"): CODES.get(kind[1], "worker_died") for name, kind in kinds.items() if kind}


def test_faults_at_every_stage_fail_alone(here: Any) -> None:
    faults = ["exit@decode-3", "hang@compute-5", "kill@encode-7", "memory@decode-9", "raise@compute-10"]
    names = [f"{i:02d}-{i}" for i in (1, 2, 4, 6, 8, 11, 12)] + faults
    source = here.images("mixed", names)
    (source / "broken-13.png").write_bytes(b"no picture")
    job = here.job(source, here.folder / "run")
    outcome = here.run(job)
    assert outcome.exit_code == 0 and outcome.counts.ok == 7
    failed = {**expected(faults), "broken-13.png": "not_an_image"}
    found = here.check("poison of five kinds in one run", len(faults), source, job.store, failed)
    sentences = [row["error"] for row in found.rows.values() if row["error"]]
    assert all("\n" not in sentence and len(sentence) > 20 for sentence in sentences)
    events = [json.loads(line) for line in (here.folder / "run/events.jsonl").read_text().splitlines()]
    deaths = [e for e in events if e["event"] in ("worker_died", "worker_hung")]
    assert len(deaths) <= 4 * 3, "the flight recorder spares the halving"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", STAGES)
def test_every_kind_of_end_at_every_stage(here: Any, stage: str) -> None:
    """First, in the middle and last in a unit, in turn."""
    units = [["good"] * 7 for _ in KINDS]
    for number, (kind, unit) in enumerate(zip(KINDS, units, strict=True), STAGES.index(stage)):
        unit[(0, 3, 6)[number % 3]] = f"{kind}@{stage}"
    try_out(here, f"{', '.join(KINDS)} in {stage}", units)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_several_in_one_unit(here: Any) -> None:
    unit = ["exit@decode", "good", "memory@compute", "kill@compute", "good", "hang@encode", "segv@encode"]
    try_out(here, "several kinds in one unit", [unit, ["good"] * 7, ["exit@decode"] * 2 + ["good"] * 5])


def try_out(here: Any, what: str, units: list[list[str]]) -> None:
    names = [f"{i:03d}-{what}-{i}" for i, what in enumerate(what for unit in units for what in unit)]
    source = here.images("source", names)
    job = here.job(source, here.folder / "run", units=UnitParams(size=7))
    here.run(job)
    failed = expected(names)
    here.check(what, len(failed), source, job.store, failed)
