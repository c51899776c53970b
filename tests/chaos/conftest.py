"""Faults in earnest: images that end their worker, and the reckoning of what a run made of them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image, PngImagePlugin
from rich.console import Console

from jobs.spec import dump_job, load_job
from pipeline.config import SourceParams
from pipeline.plan import RESERVED
from pipeline.prepare import PreparedJob, prepare
from pipeline.run import Outcome, retry, run
from pipeline.source import open_source
from pipeline.verify import verify
from workers.records import reserved_columns
from workers.storage import Store, encode, open_store

CODE = Path(__file__).parent / "code"

JOB = """
source: {source}
output: {output}
model: {{name: "faultynet:Faulty", preprocess: {{mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}}}}
images: {{frame: [32, 32], enlarge: true}}
units: {{size: {unit}}}
workers: {{timeout: 4}}
max_failed: 1
deepdream:
  stages: [{{layers: [conv2], octaves: 1, iterations: 2, jitter: 0}}]
"""


@dataclass
class Reckoning:
    """What became of the outputs of a run, against what was asked and what a clean run gives."""

    rows: dict[str, dict[str, Any]]
    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    blamed: dict[str, str] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    @property
    def codes(self) -> dict[str, str]:
        """Error codes of the failed outputs by URI."""
        return {uri: row["error_code"] for uri, row in self.rows.items() if row["status"] != "ok"}

    @property
    def is_clean(self) -> bool:
        """Nothing lost, nothing twice, nobody blamed, the same pictures."""
        return not (self.lost or self.doubled or self.blamed or self.changed)


def rows_of(store: Store) -> list[dict[str, Any]]:
    """All rows of all parts."""
    tables = [ds.dataset(io_of(store, entry.name)).to_table() for entry in store.list("manifest")]
    return [row for table in tables for row in table.to_pylist()]


def io_of(store: Store, name: str) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(store.read(name)))


def reckon(store: Store, asked: Mapping[str, str | None], clean: Mapping[str, str]) -> Reckoning:
    """Compare a run's rows with the error code expected of each URI (None: ok) and the hashes of a clean run."""
    rows = rows_of(store)
    times = Counter((row["uri"], row["round"]) for row in rows)
    made = Counter(row["uri"] for row in rows if row["status"] == "ok")
    latest = {row["uri"]: row for row in sorted(rows, key=lambda row: row["round"])}
    found = Reckoning(latest)
    found.lost = asked.keys() - latest.keys()
    found.doubled = {uri for (uri, _), n in times.items() if n > 1} | {uri for uri, n in made.items() if n > 1}
    for uri, row in latest.items():
        if row["error_code"] != asked[uri]:
            found.blamed[uri] = str(row["error_code"])
        elif row["status"] == "ok" and row["output_sha256"] != clean[uri]:
            found.changed.add(uri)
    return found


class Lab:
    """Makes sources with faults in them, and runs them on this process's Ray or in processes of their own."""

    def __init__(self, folder: Path, prepared: PreparedJob, tally: Callable[..., None]):
        self.folder = folder
        self._prepared = prepared
        self._tally = tally
        self._clean: dict[str, str] = {}

    def images(self, name: str, names: list[str]) -> Path:
        """A folder of small pictures; each is drawn by the number in its name, and carries its name for decoding."""
        source = self.folder / name
        source.mkdir()
        for each in names:
            picture(source / f"{each}.png")
        return source

    def job(self, source: Path, output: str | Path, **changes: Any) -> PreparedJob:
        """The job over another source and into another output; `changes` to its configuration."""
        params = SourceParams(uri=str(source))
        config = self._prepared.config.model_copy(update={"source": params, "output": str(output), **changes})
        reserved = reserved_columns(config.task) | RESERVED
        opened = open_source(params, reserved=reserved, exclude=str(output))
        return replace(self._prepared, config=config, source=opened, store=open_store(str(output)))

    def run(self, job: PreparedJob, **options: Any) -> Outcome:
        """Run in this process."""
        return run(job, job_yaml=dump_job(job.config), console=Console(file=io.StringIO()), **options)

    def retry(self, job: PreparedJob) -> Outcome:
        """Retry in this process."""
        return retry(job, job_yaml=dump_job(job.config), console=Console(file=io.StringIO()))

    @staticmethod
    def parts(run: Path) -> int:
        """How many units of a local run are committed."""
        return len(list(run.glob("manifest/*/*.parquet")))

    def silence(self, run: Path) -> None:
        """Make a run's latest driver look as if it had given no sign of life for ten minutes."""
        claim = max((run / "drivers").glob("*.json"))
        facts = json.loads(claim.read_text())
        claim.write_text(json.dumps(facts | {"seen": facts["seen"] - 600}))

    def clean(self, source: Path) -> dict[str, str]:
        """The hash of each picture of a source as a run without any fault makes them, by name."""
        plain = sorted({f"{number(file.stem)}.png" for file in source.iterdir()} - self._clean.keys())
        if plain:
            folder = self.folder / f"clean-{len(self._clean)}"
            folder.mkdir()
            for name in plain:
                picture(folder / name)
            job = self.job(folder, self.folder / f"run-{folder.name}")
            assert self.run(job).counts.failed == 0
            self._clean |= {row["uri"]: row["output_sha256"] for row in rows_of(job.store)}
        return {encode(file.name): self._clean[f"{number(file.stem)}.png"] for file in source.iterdir()}

    def check(
        self, fault: str, tried: int, source: Path, store: Store, failed: Mapping[str, str] | None = None
    ) -> Reckoning:
        """Reckon up a run over `source`, where `failed` should have failed; a line of the table; all must be well."""
        clean = self.clean(source)
        found = reckon(store, {uri: (failed or {}).get(uri) for uri in clean}, clean)
        self._tally(fault, tried, *map(len, (found.lost, found.doubled, found.blamed, found.changed)))
        assert found.is_clean, found
        report = verify(store)
        assert report.faults == [], report.faults
        return found

    def job_file(self, source: str | Path, output: str | Path, unit: int = 4) -> Path:
        """The job as a file."""
        job = self.folder / f"job-{crc32(f'{source} {output}'.encode())}.yaml"
        job.write_text(JOB.format(source=source, output=output, unit=unit))
        return job

    def command(self, source: str | Path, output: str | Path, unit: int = 4, **environment: str) -> Command:
        """`pixgrad run` for a process of its own, with an embedded Ray."""
        job = self.job_file(source, output, unit)
        return Command(["run", str(job), "--allow-code"], {"FAULTS_FOLDER": str(self.folder), **environment})


@dataclass
class Command:
    """A command line of pixgrad, and its environment besides ours."""

    arguments: list[str]
    environment: dict[str, str]

    def start(self, *more: str, **options: Any) -> subprocess.Popen[str]:
        """Start it in a session of its own."""
        executable = str(Path(sys.executable).with_name("pixgrad"))
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        environ = os.environ | self.environment
        return subprocess.Popen([executable, *self.arguments, *more], env=environ, **{**streams, **options})

    def run(self, *more: str, timeout: float = 240) -> tuple[int, str, str]:
        """Run it to its end: exit code, output, errors."""
        process = self.start(*more)
        out, err = process.communicate(timeout=timeout)
        assert "Traceback" not in err, err
        return process.returncode, out, err


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Wait until a condition holds, at most some seconds; else fail."""

    def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert condition()

    return wait


def number(name: str) -> str:
    """The digits at the end of a picture's name, which say what it shows."""
    return name.rpartition("-")[2]


def picture(path: Path) -> None:
    """A small picture of random blots, with its name among its bytes."""
    random = np.random.default_rng(int(number(path.stem)))
    blots = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    info = PngImagePlugin.PngInfo()
    info.add(b"tEXt", b"name\0" + path.stem.encode("latin-1"))
    Image.fromarray(blots).resize((40, 40), Image.Resampling.BICUBIC).save(path, pnginfo=info)


@pytest.fixture(scope="session")
def prepared_faulty(tmp_path_factory: pytest.TempPathFactory) -> PreparedJob:
    """The job with the faulty network, looked up once."""
    folder = tmp_path_factory.mktemp("prepared")
    picture(folder / "0.png")
    job = folder / "job.yaml"
    job.write_text(JOB.format(source=folder, output=folder / "run", unit=4))
    return prepare(load_job(job), allow_code=True)


@pytest.fixture
def lab(tmp_path: Path, prepared_faulty: PreparedJob, tally_fault: Callable[..., None]) -> Iterator[Lab]:
    """A laboratory for runs in processes of their own."""
    yield Lab(tmp_path, prepared_faulty, tally_fault)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def here(lab: Lab, ray_cluster: None) -> Lab:
    """A laboratory for runs on this process's Ray."""
    return lab
