"""What a report takes from the run's small files: run.json and job.yaml."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, ValidationError

from pipeline.seal import DamagedError, damage
from pipeline.status import open_run
from workers.layout import JOB, RUN
from workers.params import ImageParams
from workers.records import Task
from workers.storage import MissingError, Store


class ModelRecord(BaseModel):
    """The network of a run."""

    name: str
    weights: str
    sha256: str


class StyleRecord(BaseModel):
    """A style image of a run."""

    uri: str
    name: str
    sha256: str


class DeviceRecord(BaseModel):
    """What a run computes on."""

    device: str
    name: str


class FixedRecord(BaseModel):
    """What a run fixed when it began."""

    precision: str
    device: DeviceRecord
    cpus: int
    gpus: float
    batch: dict[str, int | None]


class SessionRecord(BaseModel):
    """One process that worked on the run."""

    began: str
    round: int
    versions: dict[str, str]
    ended: str | None = None
    exit_code: int | None = None


class RunRecord(BaseModel):
    """The part of `run.json` that a report shows."""

    name: str
    task: Task
    state: str
    began: str
    fingerprint: str
    fields: dict[str, Any] = Field(alias="fingerprint_fields")
    model: ModelRecord
    styles: list[StyleRecord]
    variants: list[str]
    source_root: str
    fixed: FixedRecord
    sessions: list[SessionRecord]

    @property
    def images(self) -> ImageParams:
        """How the images were decoded."""
        return ImageParams.model_validate(self.fields["images"])

    @property
    def labels(self) -> str | None:
        """Where the labels come from, if there are any."""
        return self.fields["source"]["labels"]

    @property
    def grid_styles(self) -> list[str]:
        """The styles of a grid of contents and styles, in the job's order; none if the run is no grid."""
        is_grid = self.task == "style" and self.fields["style"]["assign"] == "all"
        return self.variants if is_grid else []


def read_record(store: Store) -> RunRecord:
    """The record of a run. Raises NoRunError, StorageError, DamagedError."""
    facts = open_run(store)
    try:
        record = RunRecord.model_validate(facts)
        _ = record.images, record.labels, record.grid_styles, record.fields["model"], record.fields[record.task]
        return record
    except (ValidationError, LookupError, TypeError) as error:
        raise DamagedError(f"{store.url}/{RUN} is damaged ({damage(error)}); restore it from a copy.") from None


def read_job(store: Store) -> str:
    """The text of job.yaml; empty if it is gone."""
    try:
        return store.read(JOB).decode("utf-8", "replace")
    except MissingError:
        return ""
