"""The job file: read, checked with mistakes answered by file, line and key, and written back."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from jobs.document import Document, JobFileError, override, read_document
from jobs.mistakes import find_mistakes
from pipeline.config import JobConfig
from pipeline.patterns import absolute
from pipeline.prepare import JobError, PreparedJob, prepare
from pipeline.status import open_run
from workers.layout import JOB
from workers.storage import Store

MAX_BYTES = 2**20


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> JobConfig:
    """The job in a YAML 1.2 file, with each `key.path=value` of `overrides` put over it in turn.

    A job without a name gets its output folder's, or the file's where that is hidden. Paths in the file are relative to
    the current folder, as paths on a command line are, not to the file; they are kept as written. Raises JobFileError
    with a sentence for each mistake.
    """
    return check_document(_read(Path(path), overrides), Path(path).stem)


def prepare_job(path: str | Path, overrides: Sequence[str] = (), *, allow_code: bool = False) -> PreparedJob:
    """The job in a file made ready to run. Raises what `load_job` and `prepare` raise, with the place in the file."""
    return prepare_document(_read(Path(path), overrides), Path(path).stem, allow_code=allow_code)


def prepare_document(document: Document, name: str, *, allow_code: bool = False) -> PreparedJob:
    """The job of a document made ready to run, called `name` if it has no name of its own. Raises as `prepare_job`."""
    config = check_document(document, name)
    try:
        return prepare(config, allow_code=allow_code)
    except JobError as error:
        raise JobFileError(document.sentence(error.key, str(error))) from None


def prepare_values(
    values: Mapping[str, Any], overrides: Sequence[str] = (), *, allow_code: bool = False
) -> PreparedJob:
    """The job of values as a job file has them, made ready to run; paths count as text. Raises as `prepare_job`."""
    try:
        plain = json.loads(json.dumps(values, default=os.fspath))
    except (TypeError, ValueError) as error:
        raise JobFileError(f"job: a job holds what YAML can hold, and paths: {error}") from None
    document = Document(plain, {(): "job: "})
    for assignment in overrides:
        document = override(document, assignment)
    return prepare_document(document, "job", allow_code=allow_code)


def recall_job(store: Store, overrides: Sequence[str] = (), *, allow_code: bool = False) -> PreparedJob:
    """The job that a run was begun with, from the run's own folder, made ready to run.

    Raises NoRunError if `store` holds no run, and what `load_job` and `prepare` raise.
    """
    open_run(store)
    where = f"{store.url}/{JOB}"
    config = check_document(
        _parse(store.read(JOB).decode(), where, [*overrides, f"output={json.dumps(store.url)}"]), "job"
    )
    return prepare(config, allow_code=allow_code)


def _read(path: Path, overrides: Sequence[str]) -> Document:
    return _parse(_read_text(path), str(path), overrides)


def _parse(text: str, where: str, overrides: Sequence[str]) -> Document:
    document = read_document(text, where)
    if not isinstance(document.values, dict):
        found = "is empty" if document.values is None else "is not a mapping of keys"
        raise JobFileError(document.sentence((), f"the file {found}; a job has source, output and an algorithm"))
    for assignment in overrides:
        document = override(document, assignment)
    return document


def dump_job(config: JobConfig) -> str:
    """The job as YAML with every default written out; loading it gives an equal job."""
    values = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False  # in flow style ruamel.yaml 0.19 can't read its own "?0"
    writer.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    # Line breaks of Unicode would be written raw and read as YAML's own: where there are any, all is escaped.
    writer.allow_unicode = json.dumps(values, ensure_ascii=False).isprintable()
    writer.width = 2**20  # never folded: ruamel.yaml 0.19 adds a space where it folds an escaped text
    text = io.StringIO()
    writer.dump(values, text)
    return text.getvalue()


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a job file, for editors and for `pixgrad schema`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **JobConfig.model_json_schema(by_alias=True)}


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise JobFileError(f"{path}: is larger than {MAX_BYTES // 2**20} MiB, so it is no job file")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise JobFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise JobFileError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise JobFileError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None


def check_document(document: Document, default_name: str) -> JobConfig:
    """The job of a document, by its own name, its output's, or `default_name` where the output is hidden.

    Raises JobFileError with a sentence for each mistake.
    """
    found = [document.sentence(*mistake) for mistake in find_mistakes(document.values, json_schema())]
    if found:
        raise JobFileError("\n".join(found))
    try:
        name = absolute(document.values["output"]).rpartition("/")[2]
        shown = default_name if name[:1] in ("", ".") else name
        return JobConfig.model_validate({"name": shown, **document.values})
    except ValidationError as error:
        # What is left are the rules between keys: the schema has checked each key alone.
        raise JobFileError("\n".join(_rule_sentence(document, dict(each)) for each in error.errors())) from None


def _rule_sentence(document: Document, error: dict[str, Any]) -> str:
    reason = error.get("ctx", {}).get("error", error["msg"])
    return document.sentence(tuple(map(str, error["loc"])), str(reason))
