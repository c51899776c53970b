"""From a run's files to a page: gather, sample, make the pictures, render. No torch, no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pipeline.commit import Counts, latest_rows
from pipeline.provenance import now
from pipeline.report import words
from pipeline.report.album import HARMFUL, Album, Picture
from pipeline.report.charts import histogram_chart, throughput_chart
from pipeline.report.gallery import Gallery
from pipeline.report.gather import EXAMPLES, Asked, Gathered, gather
from pipeline.report.measures import Measure, measures_of
from pipeline.report.page import render
from pipeline.report.record import RunRecord, read_job, read_record
from pipeline.report.sources import Image, Sources, by_image
from pipeline.report.timeline import read_timeline, throughput
from pipeline.status import Status, read_status
from workers.attribution.heatmap import COLOURS
from workers.storage import Store

MOST_CLASSES_SHOWN = 1000
PAGE = "index.html"


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a page are."""

    outputs: dict[str, Picture]
    sources: dict[Image, Picture]
    failed: dict[Image, Picture]
    styles: dict[str, Picture]


def write_report(run: Store, to: Store, *, seed: int = 0) -> None:
    """Write the report of a run to the folder `to`: index.html, and the pictures in images/.

    The run is only read; a report that is there already is replaced, its pictures too. Which outputs are sampled
    follows from `seed`. Raises NoRunError, StorageError, DamagedError.
    """
    record = read_record(run)
    measures = measures_of(record.fields, record.task)
    class_column = "label" if record.labels else "target_name" if record.task == "attribution" else None
    asked = Asked(len(record.variants), is_grid=bool(record.grid_styles), class_column=class_column)
    gathered = gather(latest_rows(run), measures, asked, seed=seed)
    status = read_status(run, Counts(gathered.ok, dict(gathered.failures), gathered.parts))
    album = Album(to, record.images)
    pictures = _pictures(run, record, gathered, album)
    context = {
        "run": record,
        "status": status,
        "gathered": gathered,
        "job_yaml": read_job(run),
        "audit": status.audit,
        "axioms_unchecked": status.axioms_unchecked,
        "seed": seed,
        "made": now(),
        "place": run.url,
        "harmful": HARMFUL,
        "colours": ["#{:02x}{:02x}{:02x}".format(*map(int, colour)) for colour in COLOURS],
        **_summary(run, record, status, gathered),
        **_measured(measures, gathered),
        **_shown(record, measures, gathered, pictures),
    }
    to.replace(PAGE, render("report.html", context).encode())
    album.remove_others()


def _pictures(run: Store, record: RunRecord, gathered: Gathered, album: Album) -> Pictures:
    examples = list(chain.from_iterable(gathered.examples.values()))
    shown = {row["key"]: row for row in (*gathered.sample, *chain(*gathered.worst.values()), *gathered.grid)}
    sources = Sources(run, record.source_root, record.images.max_bytes, [*shown.values(), *examples])
    made = [row for row in shown.values() if row["status"] == "ok"]
    styles = {style.name: album.style(style.uri, style.sha256) for style in record.styles if record.grid_styles}
    return Pictures(
        outputs=album.outputs(run, made),
        sources=album.sources(sources, shown.values()),
        failed=album.failed_sources(sources, examples),
        styles={name: picture for name, picture in styles.items() if picture},
    )


def _summary(run: Store, record: RunRecord, status: Status, gathered: Gathered) -> dict[str, Any]:
    timeline = read_timeline(run)
    rates = throughput(timeline)
    return {
        "timeline": timeline,
        "rate": words.rate(timeline.rate),
        "throughput": throughput_chart(rates) if rates else None,
        "wanted": status.images * len(record.variants),
        "sessions": [
            (session, words.seconds_between(session.began, session.ended), words.EXITS.get(session.exit_code or 0))
            for session in record.sessions
        ],
        "versions": _versions(record),
        "reasons": gathered.failures.most_common(),
        "meanings": words.CODES,
        "images_an_example": EXAMPLES,
    }


def _versions(record: RunRecord) -> list[tuple[str, list[str]]]:
    """Packages with the versions that sessions had, in order of their first use."""
    found: dict[str, dict[str, None]] = {}
    for session in record.sessions:
        for package, version in session.versions.items():
            found.setdefault(package, {})[version] = None
    return [(package, list(versions)) for package, versions in found.items()]


def _measured(measures: Sequence[Measure], gathered: Gathered) -> dict[str, Any]:
    classes = gathered.classes
    return {
        "measures": [
            (measure, distribution, histogram_chart(distribution))
            for measure in measures
            if (distribution := gathered.distributions.get(measure.name)) and distribution.count
        ],
        "shares": {m.name: (m, *gathered.shares[m.name]) for m in measures if m.name in gathered.shares},
        "evaluations": sorted(gathered.evaluations.items()),
        "stop_reasons": gathered.stop_reasons.most_common(),
        "classes": classes.rows(MOST_CLASSES_SHOWN) if classes else [],
        "class_count": classes.count if classes else 0,
        "class_measures": [m for m in measures if m.name != "seconds"],
    }


def _shown(record: RunRecord, measures: Sequence[Measure], gathered: Gathered, pictures: Pictures) -> dict[str, Any]:
    gallery = Gallery(record.task, gathered, measures, pictures.outputs, pictures.sources)
    grid = sorted(gathered.grid, key=lambda row: (row["uri"], row["member"] or ""))
    return {"gallery": gallery.data(), "contents": by_image(grid), "pictures": pictures}
