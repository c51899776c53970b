"""Workers that can't start: one sentence, an exit code, and no endless restarts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cluster import RunStopped
from pipeline.driver import START_FAILURES
from pipeline.provenance import OtherJobError
from workers.weights import WeightsFile


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_a_model_that_raises_stops_the_run_with_its_own_error(here: Any) -> None:
    source = here.images("source", ["0"])
    job = here.job(source, here.folder / "run")
    params = job.config.model.model_copy(update={"name": "faultynet:Raising"})
    job = replace(job, config=job.config.model_copy(update={"model": params}))
    with pytest.raises(RunStopped, match="the network broke") as caught:
        here.run(job)
    assert caught.value.exit_code in (2, 4) and "\n" not in str(caught.value)
    failures = [e for e in events_of(here.folder / "run") if e["event"] == "worker_start_failed"]
    assert 1 <= len(failures) <= START_FAILURES
    facts = json.loads((here.folder / "run/run.json").read_text())
    assert facts["state"] == "unfinished" and facts["sessions"][-1]["exit_code"] == caught.value.exit_code
    assert here.run(here.job(source, here.folder / "another")).counts.ok == 1, "Ray is as good as before"


def test_gpus_that_are_not_there_are_asked_for(here: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    job = here.job(here.images("source", ["0"]), here.folder / "run")
    workers = job.config.workers.model_copy(update={"gpus": 1.0})
    with pytest.raises(RunStopped, match=r"workers\.gpus asks for 1 GPUs and this machine has none") as caught:
        here.run(replace(job, config=job.config.model_copy(update={"workers": workers})))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [None, b"no weights at all", b""], ids=["missing", "garbage", "empty"])
def test_weights_that_cannot_be_read_stop_it_before_a_worker_starts(here: Any, content: bytes | None) -> None:
    weights = here.folder / "weights.pth"
    if content is not None:
        weights.write_bytes(content)
    source = here.images("source", ["0"])
    command = here.command(source, here.folder / "run")
    code, out, err = command.run("--set", f"model={{name: resnet18, weights: {weights}}}")
    assert code == 2 and len(err.strip().splitlines()) == 1 and not out, err
    assert "weights.pth" in err
    assert not (here.folder / "run/manifest").exists()


def test_weights_that_changed_since_the_run_began_are_another_job(here: Any) -> None:
    job = here.job(here.images("source", ["0"]), here.folder / "run")
    here.run(job)
    (here.folder / "other.safetensors").write_bytes(b"other weights")
    weights = WeightsFile(here.folder / "other.safetensors", "elsewhere")
    with pytest.raises(OtherJobError, match=r"model\.weights differs"):
        here.run(replace(job, model=replace(job.model, weights=weights)))
