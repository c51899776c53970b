"""What a run says that it is: its `run.json`, and whether the `job.yaml` beside it is the same job (promise 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from pydantic import AliasPath, BaseModel, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.commit import Counts
from pipeline.config import JobConfig
from pipeline.provenance import fingerprint
from pipeline.seal import DamagedError
from pipeline.status import NoRunError, open_run
from workers.errors import PixgradError, first_line
from workers.layout import JOB, RUN
from workers.storage import MissingError, StorageError, Store


class RunFacts(BaseModel):
    """What `verify` needs of `run.json`. `counts` are of the latest rows, there once the run is complete."""

    version: int = Field(alias="schema")
    fingerprint: str
    fields: dict[str, Any] = Field(alias="fingerprint_fields")
    unit_size: int = Field(ge=1, validation_alias=AliasPath("fingerprint_fields", "units", "size"))
    seed: int = Field(validation_alias=AliasPath("fingerprint_fields", "seed"))
    variants: list[str] = Field(min_length=1)
    state: str
    counts: Counts | None = None

    @property
    def complete(self) -> bool:
        """Whether the run says that nothing is left to do."""
        return self.state == "complete"


def read_run_facts(store: Store) -> RunFacts:
    """Read `run.json`. Raises NoRunError, StorageError; DamagedError if it isn't what a run writes."""
    try:
        return RunFacts.model_validate(open_run(store))
    except (NoRunError, StorageError):
        raise
    except PixgradError as error:
        raise DamagedError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        reason = first_line(error)
    raise DamagedError(f"{store.url}/{RUN} is damaged ({reason}); restore it from a copy.")


def check_job(store: Store, facts: RunFacts) -> Iterator[str]:
    """Say what speaks against promise 6 in the run's own words. Raises StorageError."""
    if fingerprint(facts.fields) != facts.fingerprint:
        yield f"{RUN}: the fingerprint is not the hash of its fingerprint_fields"
    try:
        job = JobConfig.model_validate(YAML(typ="safe", pure=True).load(store.read(JOB)))
    except MissingError:
        yield f"{JOB} is missing"
    except (YAMLError, ValueError, RecursionError) as error:
        yield f"{JOB} is damaged ({first_line(error)})"
    else:
        if _as_resolved(job.fingerprint_fields(), facts.fields) != facts.fields:
            yield f"{JOB} is another job than the fingerprint_fields of {RUN}"


def _as_resolved(written: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """The job's own fields with what a session looks up (hashes, classes, what `auto` stands for) as in `fields`.

    None if it isn't there.
    """
    resolved = deepcopy(written)
    try:
        resolved["model"] |= {name: fields["model"][name] for name in ("weights", "classes")}
        if written["precision"] == "auto":
            resolved["precision"] = fields["precision"]
        if "style" in written:
            resolved["style"]["styles"] = fields["style"]["styles"]
        if "attribution" in written:
            resolved["attribution"]["baseline"] = fields["attribution"]["baseline"]
        if "deepdream" in written:
            stages = zip(resolved["deepdream"]["stages"], fields["deepdream"]["stages"], strict=True)
            for stage, kept in stages:
                stage["guide"] = kept["guide"]
    except (LookupError, TypeError, ValueError):
        return None
    return resolved
