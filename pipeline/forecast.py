"""What a job would do, told before it does it: counts, frames, a decoded sample, disk. No torch, no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.commit import committed_units
from pipeline.prepare import PreparedJob
from workers.codec import decode
from workers.errors import ImageError
from workers.fetch import Fetcher
from workers.records import ImageRef

SAMPLE = 16
"""Images decoded to see what the frames will be."""

BYTES_PER_PIXEL = {"deepdream": 2.2, "style": 2.2, "attribution": 6.5}
"""Of an output in its shard: PNGs of photographs, and for attribution a float32 map beside its heatmap."""


@dataclass
class _Sample:
    frames: Counter[tuple[int, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    pixels: int = 0


def forecast(job: PreparedJob) -> Iterator[tuple[str, str]]:
    """Names and values to show. Lists the whole source, and decodes a few images spread over it.

    Raises OtherJobError if the output belongs to another job, SourceError, StorageError.
    """
    job.own_run()
    images, total, refs = _list(job)
    outputs = images * len(job.variants.names)
    units = -(-outputs // job.config.units.size)
    sample = _decode(job, refs)
    weights = job.model.weights
    yield "job", f"{job.config.name}: {job.config.task}"
    yield "inputs", f"{images} images, {_size(total)}" + _ignored(job)
    yield "outputs", f"{outputs}" + (f", {len(job.variants.names)} an image" if len(job.variants.names) > 1 else "")
    yield "units", f"{units} of {job.config.units.size} outputs, {len(committed_units(job.store, 0))} done"
    yield "model", f"{job.config.model.name}, {weights.source}"
    yield "weights", f"sha256 {weights.sha256}"
    yield "layers", ", ".join(dict.fromkeys(job.layers))
    yield "frames", _frames(sample)
    for failure in sample.failures[:3]:
        yield "", failure
    decoded = sum(sample.frames.values())
    if decoded:
        yield "disk", f"about {_size(sample.pixels / decoded * BYTES_PER_PIXEL[job.config.task] * outputs)}"
    yield "output", job.store.url


def _list(job: PreparedJob) -> tuple[int, int, list[ImageRef]]:
    """How many images and bytes, and some of the images, spread evenly over a listing of unknown length."""
    images, total, step = 0, 0, 1
    refs: list[ImageRef] = []
    for image in job.source.images():
        if images % step == 0:
            refs.append(image)
        if len(refs) == 2 * SAMPLE:
            refs, step = refs[::2], 2 * step
        images, total = images + 1, total + (image.bytes or 0)
    return images, total, refs[:: max(1, len(refs) // SAMPLE)]


def _decode(job: PreparedJob, refs: list[ImageRef]) -> _Sample:
    sample = _Sample()
    fetcher = Fetcher(job.source.root, job.config.images.max_bytes)
    for ref in refs:
        try:
            image = decode(fetcher.fetch(ref), job.config.images)
        except ImageError as error:
            sample.failures.append(f"{ref.uri}: {error}")
        else:
            sample.frames[image.frame] += 1
            sample.pixels += image.frame[0] * image.frame[1]
    return sample


def _frames(sample: _Sample) -> str:
    decoded = sum(sample.frames.values())
    common = ", ".join(f"{count} of {w} x {h}" for (h, w), count in sample.frames.most_common(4))
    more = f" and {len(sample.frames) - 4} other sizes" if len(sample.frames) > 4 else ""
    failed = f"; {len(sample.failures)} can't be read" if sample.failures else ""
    return f"a sample of {decoded + len(sample.failures)}: {common}{more}{failed}"


def _ignored(job: PreparedJob) -> str:
    others = sum(job.source.ignored.values())
    return f" ({others} other files passed over)" if others else ""


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
