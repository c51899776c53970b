"""The whole job as the pipeline sees it: its source, network, algorithm and output. No torch, no Ray."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from workers.params import (
    AttributionParams,
    AuditParams,
    DeepDreamParams,
    ImageParams,
    ModelParams,
    Params,
    Section,
    StyleParams,
)

TASKS = ("deepdream", "style", "attribution")
"""The sections of which a job has exactly one."""

Text = Annotated[str, Field(min_length=1)]


class SourceParams(Params):
    """Where the images come from."""

    uri: Text = Field(description="folder | *.tar (WebDataset) | *.parquet, *.csv, *.txt; local or a URI")
    labels: str | None = Field(default=None, description="null | folder | a column of the table")


def _source_from_uri(value: Any) -> Any:
    return {"uri": value} if isinstance(value, str) else value


SourceRef = Annotated[SourceParams, BeforeValidator(_source_from_uri, json_schema_input_type=Text | SourceParams)]


class UnitParams(Params):
    """How the outputs are cut into units."""

    size: int = Field(default=64, ge=1, description="outputs a unit, the smallest thing committed")


class WorkerParams(Params):
    """How many actors compute, and with what. auto: from what the cluster has."""

    min: int = Field(default=0, ge=0, description="kept even when there is less to do")
    max: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(default="auto", description="at a time; auto: what fits")
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(default="auto", description="GPUs an actor; 0: CPU")
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(default="auto", description="images computed together")
    timeout: float = Field(default=300, gt=0, description="seconds without any progress after which a worker is hung")
    wait: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="seconds to wait for a cluster without room for a worker; null: as long as it takes"
    )

    @model_validator(mode="after")
    def _ordered(self) -> WorkerParams:
        if self.max != "auto" and self.max < self.min:
            raise ValueError(f"max ({self.max}) is less than min ({self.min})")
        return self


def _one_section_in_schema(schema: dict[str, Any]) -> None:
    """In a job file the presence of a section chooses it, so the schema has no null there."""
    for task in TASKS:
        choices = schema["properties"][task].pop("anyOf")
        schema["properties"][task] = next(choice for choice in choices if choice.get("type") != "null")
    schema["oneOf"] = [{"required": [task]} for task in TASKS]


class JobConfig(Params):
    """A job: what the run is called, its images, network and outputs, and exactly one of the three algorithms.

    Paths and URIs are kept as written; the runner resolves them against the current folder.
    """

    model_config = ConfigDict(title="pixgrad job", json_schema_extra=_one_section_in_schema)

    name: Text = Field(default="job", description="what people call the job; left out: its output folder's name")
    source: SourceRef
    output: Text = Field(description="a local folder or an object-store prefix")
    model: ModelParams = ModelParams.model_validate({})
    images: ImageParams = ImageParams.model_validate({})
    units: UnitParams = UnitParams.model_validate({})
    workers: WorkerParams = WorkerParams.model_validate({})
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="resolved once for the whole run")
    max_failed: float = Field(
        default=0.01, ge=0, le=1, description="share of outputs that may fail before the run has failed"
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="what is random follows from it and the output's name")
    deepdream: DeepDreamParams | None = None
    style: StyleParams | None = None
    attribution: AttributionParams | None = None

    @model_validator(mode="after")
    def _exactly_one_section(self) -> JobConfig:
        given = [task for task in TASKS if getattr(self, task) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(TASKS)}, not {' and '.join(given) or 'none'}")
        return self

    @property
    def task(self) -> Literal["deepdream", "style", "attribution"]:
        """The name of the job's algorithm."""
        if self.deepdream is not None:
            return "deepdream"
        return "style" if self.style is not None else "attribution"

    @property
    def section(self) -> Section:
        """The parameters of the job's algorithm."""
        return getattr(self, self.task)

    @property
    def audit(self) -> AuditParams | None:
        """The axioms' check that is to follow the run, if the job asks for one."""
        return self.attribution.audit if self.attribution else None

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything that a run must keep from its first day to its last (promise 6), as JSON values.

        The name, the output place, `workers` and `max_failed` may change when a run goes on. Paths are as written here;
        the runner adds what they lead to (hashes of weights, styles and guides) and resolves `precision`.
        """
        kept = {"source", "model", "images", "units", "precision", "seed", self.task}
        fields = self.model_dump(mode="json", by_alias=True, include=kept)
        fields.get("attribution", {}).pop("audit", None)  # it looks at outputs and changes none
        return fields
