"""What a job would do, told before it does it: counts, frames, a decoded sample, disk. No torch, no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.commit import committed_units
from pipeline.prepare import PreparedJob
from pipeline.progress.words import plural, size
from workers.codec import decode
from workers.errors import ImageError
from workers.fetch import Fetcher
from workers.records import ImageRef

SAMPLE = 16
"""Images decoded to see what the frames will be."""

BYTES_PER_PIXEL = {"deepdream": 2.2, "style": 2.2, "attribution": 6.5}
"""Of an output in its shard: PNGs of photographs, and for attribution a float32 map beside its heatmap."""


@dataclass
class Sample:
    """Images decoded: how many of each frame (height, width), and a sentence for each that can't be."""

    frames: Counter[tuple[int, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def decoded(self) -> int:
        """Images that could be decoded."""
        return self.frames.total()

    @property
    def pixels(self) -> float:
        """Of one image's frame, on the average; 0 if there is none."""
        return sum(h * w * count for (h, w), count in self.frames.items()) / max(1, self.decoded)


@dataclass(frozen=True)
class Forecast:
    """What a job would do. `bytes` are those of the source as far as it tells; `ignored` its files that are no images.

    `refs`: some images, spread over the listing.
    """

    job: PreparedJob
    images: int
    bytes: int
    ignored: int
    units_done: int
    outputs_done: int
    refs: list[ImageRef]
    sample: Sample

    @property
    def outputs(self) -> int:
        """All that is asked for."""
        return self.images * len(self.job.variants.names)

    @property
    def outputs_left(self) -> int:
        """What isn't committed."""
        return max(0, self.outputs - self.outputs_done)

    @property
    def units(self) -> int:
        """They hold the outputs."""
        return -(-self.outputs // self.job.config.units.size)

    @property
    def disk(self) -> int | None:
        """Bytes that the whole run will take, roughly; None if no image of the sample can be decoded."""
        return int(self.sample.pixels * BYTES_PER_PIXEL[self.job.config.task] * self.outputs) or None

    def rows(self) -> Iterator[tuple[str, str]]:
        """Names and values to show."""
        job, weights, variants = self.job, self.job.model.weights, len(self.job.variants.names)
        ignored = f" ({plural(self.ignored, 'other file')} passed over)" if self.ignored else ""
        yield "job", f"{job.config.name}: {job.config.task}"
        yield "inputs", f"{plural(self.images, 'image')}, {size(self.bytes)}{ignored}"
        yield "frames", _frames(self.sample)
        for failure in self.sample.failures[:3]:
            yield "", failure
        yield "outputs", f"{self.outputs:,}" + (f", {variants} an image" if variants > 1 else "")
        yield "units", f"{self.units:,} of {job.config.units.size} outputs"
        yield "done", f"{plural(self.units_done, 'unit')}, {plural(self.outputs_done, 'output')}"
        yield "model", f"{job.config.model.name}, {weights.source}"
        yield "weights", f"sha256 {weights.sha256}"
        yield "layers", ", ".join(dict.fromkeys(job.layers))
        if audit := job.config.audit:
            yield "axioms", f"checked at the end on {plural(audit.sample, 'image')}, which comes on top of the time"
        yield "disk", f"about {size(self.disk)}" if self.disk else "not known, as no image of the sample can be read"
        yield "output", job.store.url

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        job, weights = self.job, self.job.model.weights
        frames = [{"width": w, "height": h, "images": n} for (h, w), n in self.sample.frames.most_common()]
        return {
            "name": job.config.name,
            "task": job.config.task,
            "images": self.images,
            "bytes": self.bytes,
            "other_files": self.ignored,
            "sample": {"decoded": self.sample.decoded, "frames": frames, "failures": self.sample.failures},
            "variants": list(job.variants.names),
            "outputs": self.outputs,
            "outputs_done": self.outputs_done,
            "units": self.units,
            "unit_size": job.config.units.size,
            "units_done": self.units_done,
            "model": job.config.model.name,
            "weights": weights.source,
            "weights_sha256": weights.sha256,
            "layers": list(dict.fromkeys(job.layers)),
            "images_audited": job.config.audit.sample if job.config.audit else 0,
            "disk_bytes": self.disk,
            "output": job.store.url,
        }


def forecast(job: PreparedJob, refs: int = SAMPLE) -> Forecast:
    """List the whole source, decode `SAMPLE` images spread over it, and keep at least `refs`, if there are so many.

    Raises OtherJobError if the output belongs to another job, SourceError, StorageError.
    """
    job.own_run()
    images, total, kept = _list(job, max(SAMPLE, refs))
    done = committed_units(job.store, 0)
    plan = job.plan()
    sizes = (plan.unit_sizes(chunk) for chunk in plan.chunks())
    return Forecast(
        job=job,
        images=images,
        bytes=total,
        ignored=sum(job.source.ignored.values()),
        units_done=len(done),
        outputs_done=sum(outputs for chunk in sizes for unit, outputs in chunk.items() if unit in done),
        refs=kept,
        sample=_decode(job, kept[:: max(1, len(kept) // SAMPLE)]),
    )


def _list(job: PreparedJob, wanted: int) -> tuple[int, int, list[ImageRef]]:
    """How many images and bytes, and some of the images, spread evenly over a listing of unknown length."""
    images, total, step = 0, 0, 1
    refs: list[ImageRef] = []
    for image in job.source.images():
        if images % step == 0:
            refs.append(image)
        if len(refs) == 2 * wanted:
            refs, step = refs[::2], 2 * step
        images, total = images + 1, total + (image.bytes or 0)
    return images, total, refs


def _decode(job: PreparedJob, refs: list[ImageRef]) -> Sample:
    sample = Sample()
    fetcher = Fetcher(job.source.root, job.config.images.max_bytes)
    for ref in refs:
        try:
            image = decode(fetcher.fetch(ref), job.config.images)
        except ImageError as error:
            sample.failures.append(f"{ref.uri}: {error}")
        else:
            sample.frames[image.frame] += 1
    return sample


def _frames(sample: Sample) -> str:
    common = ", ".join(f"{count} of {w} x {h}" for (h, w), count in sample.frames.most_common(4))
    more = f" and {len(sample.frames) - 4} other sizes" if len(sample.frames) > 4 else ""
    failed = f"; {len(sample.failures)} can't be read" if sample.failures else ""
    return f"a sample of {sample.decoded + len(sample.failures)}: {common}{more}{failed}"
