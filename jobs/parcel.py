"""What `submit` sends to a cluster: our own code, the job, and the small files that it names. No torch, no Ray.

It all lies in one folder, which becomes the job's working directory. Nothing else is in there and it comes first on
the path of the driver and the workers, so no module of the cluster's or of a stranger's takes the place of ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from jobs.spec import dump_job
from pipeline.config import JobConfig
from pipeline.pictures import expand
from pipeline.prepare import with_absolute_paths
from workers.errors import PixgradError
from workers.params import (
    AttributionParams,
    Baseline,
    DeepDreamParams,
    DreamLayer,
    GivenBaseline,
    Stage,
    StyleParams,
)
from workers.storage import is_remote
from workers.weights import is_file

JOB_FILE = "job.yaml"

FILES_BYTES = 200 * 2**20
"""What the files that a job names may weigh together: Ray holds a package of them in its head's memory."""

Guided = TypeVar("Guided", Stage, DreamLayer)

PACKAGES = ("jobs", "pipeline", "workers")


class ParcelError(PixgradError):
    """The job can't be sent as it is."""


def pack(config: JobConfig, folder: Path, *, shared_paths: bool, code: bool) -> JobConfig:
    """Fill an empty folder with a job, the files that it names and, with `code`, ourselves; gives the job as sent.

    With `shared_paths` local paths mean the same on the cluster and stay, absolute. Else the local files that the job
    names (weights, classes, styles, guides, baselines) go along; a local source or output is refused.

    Raises ParcelError, PictureError, SourceError.
    """
    config = with_absolute_paths(config)
    if not shared_paths:
        _check_places(config)
        config = _Files(folder).take(config)
    if code:
        _copy_code(folder)
    (folder / JOB_FILE).write_text(dump_job(config), encoding="utf-8")
    return config


def _check_places(config: JobConfig) -> None:
    for key, place in (("source.uri", config.source.uri), ("output", config.output)):
        if not is_remote(place):
            raise ParcelError(
                f"{key} is {place} on this machine, which the cluster's nodes don't see: use an object store "
                f"(s3://, gs://, az://), or say --shared-paths if every node has it at that path."
            )


class _Files:
    """The local files that a job names, copied to `files/`, each into a folder of its own so that it keeps its name."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._taken: dict[str, str] = {}
        self._bytes = 0

    def take(self, config: JobConfig) -> JobConfig:
        """The job with its local files replaced by their copies, which are named from the folder."""
        model, section = config.model, config.section
        if is_file(model.weights):
            model = model.model_copy(update={"weights": self._copy(model.weights)})
        if model.classes is not None:
            model = model.model_copy(update={"classes": self._copy(model.classes)})
        if isinstance(section, StyleParams):
            section = section.model_copy(update={"styles": list(self._pictures(section.styles))})
        if isinstance(section, DeepDreamParams):
            section = section.model_copy(update={"stages": list(map(self._guided, section.stages))})
        if isinstance(section, AttributionParams):
            section = section.model_copy(update={"baseline": list(map(self._baseline, section.baselines))})
        return config.model_copy(update={"model": model, config.task: section})

    def _pictures(self, patterns: Iterable[str]) -> Iterator[str]:
        for pattern in patterns:
            yield from [pattern] if is_remote(pattern) else map(self._copy, expand(pattern))

    def _guided(self, stage: Stage) -> Stage:
        layers = [self._with_guide(layer) for layer in stage.layers] if stage.layers else stage.layers
        return self._with_guide(stage).model_copy(update={"layers": layers})

    def _with_guide(self, named: Guided) -> Guided:
        guide = next(self._pictures([named.guide])) if named.guide else None
        return named.model_copy(update={"guide": guide})

    def _baseline(self, baseline: Baseline) -> Baseline:
        """A given baseline's images in one folder, numbered, so that they stay one baseline and keep their order."""
        if not isinstance(baseline, GivenBaseline) or is_remote(baseline.image):
            return baseline
        folder = f"files/baseline-{len(self._taken)}"
        for number, place in enumerate(expand(baseline.image)):
            self._copy(place, f"{folder}/{number:06d}-{Path(place).name}")
        return GivenBaseline(image=folder)

    def _copy(self, place: str, name: str | None = None) -> str:
        if is_remote(place) or (place in self._taken and name is None):
            return self._taken.get(place, place)
        name = name or f"files/{len(self._taken)}/{Path(place).name}"
        try:
            self._bytes += Path(place).stat().st_size
            self._check_size(place)
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place, self._folder / name)
        except OSError as error:
            raise ParcelError(f"Can't read {place}, which the job names: {error.strerror}.") from None
        return self._taken.setdefault(place, name)

    def _check_size(self, place: str) -> None:
        if self._bytes > FILES_BYTES:
            raise ParcelError(
                f"The local files that the job names are over {FILES_BYTES // 2**20} MiB with {place}: put them in "
                f"an object store and name them there, or say --shared-paths if every node has them."
            )


def _copy_code(folder: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(_place(package), folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(_place("pixgrad"), folder / "pixgrad.py")
    release = distribution("pixgrad")  # so that the version sent is the one that provenance records
    metadata = folder / f"pixgrad-{release.version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(release.read_text("METADATA") or "", encoding="utf-8")


def _place(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, f"{module} is one of ours"
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
