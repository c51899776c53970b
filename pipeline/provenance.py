"""What a run was made with: the fingerprint that guards it, and `run.json`. No torch, no Ray."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from workers.errors import PixgradError
from workers.layout import RUN
from workers.records import SCHEMA_VERSION
from workers.storage import MissingError, Store

PACKAGES = ("pixgrad", "torch", "torchvision", "timm", "ray", "numpy", "pillow", "pyarrow", "obstore")


class OtherJobError(PixgradError):
    """The run's folder belongs to another job."""

    exit_code = 5


def fingerprint(fields: Mapping[str, Any]) -> str:
    """A hash of everything that a run must keep from its first day to its last (promise 6)."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def check_same_job(store: Store, before: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raise OtherJobError, naming what differs, unless the run was begun with these fields."""
    if before["fingerprint"] == fingerprint(fields):
        return
    changed = sorted(_differences(before["fingerprint_fields"], fields))
    raise OtherJobError(
        f"{store.url} holds a run of another job: {', '.join(changed)} differ{'s' if len(changed) == 1 else ''}; "
        f"choose another output, or go on with the job as it was ({store.url}/job.yaml)."
    )


def read_run(store: Store) -> dict[str, Any] | None:
    """The content of `run.json`, or None if the folder holds no run."""
    try:
        facts = json.loads(store.read(RUN))
        if not isinstance(facts, dict):
            raise ValueError("it holds no facts")
    except MissingError:
        return None
    except (ValueError, RecursionError) as error:
        raise PixgradError(f"{store.url}/{RUN} is damaged ({error}); restore it from a copy.") from None
    return facts


def write_run(store: Store, facts: Mapping[str, Any]) -> None:
    """Write `run.json`."""
    store.replace(RUN, json.dumps({"schema": SCHEMA_VERSION, **facts}, indent=1, ensure_ascii=False).encode())


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on, found without importing them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _differences(before: Any, after: Any, path: str = "") -> set[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = ((k, before.get(k), after.get(k)) for k in before.keys() | after.keys())
        return set().union(*(_differences(b, a, f"{path}.{k}" if path else str(k)) for k, b, a in pairs))
    return set() if before == after else {path}
