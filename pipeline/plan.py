"""The plan: the source's listing, frozen in chunks as it is read, and cut into units of outputs."""

from __future__ import annotations

import io
import json
import queue
import threading
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.epoch import RunBusyError
from pipeline.listing import Identities
from pipeline.seal import DamagedError, read_sealed, seal
from pipeline.source import Source
from workers.errors import first_line
from workers.layout import chunk_name
from workers.records import ImageRef, Output, Variant
from workers.storage import Store

CHUNK_IMAGES = 16_384
"""The first chunk is one unit's worth, so that work starts at once; they double up to about this many images."""

_REF_FIELDS = [
    pa.field("uri", pa.string(), nullable=False),
    pa.field("member", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("bytes", pa.int64()),
    pa.field("label", pa.string()),
]
RESERVED = frozenset(f.name for f in _REF_FIELDS)


class Variants(Protocol):
    """Which outputs are asked for per image: their `names`, the same for every image."""

    @property
    def names(self) -> Sequence[str]:
        """One name for each output of an image."""
        ...

    def of(self, image: ImageRef, position: int) -> Sequence[Variant]:
        """The variants of the image at this position of the listing; one for each of `names`."""
        ...


@dataclass(frozen=True)
class Chunk:
    """A frozen stretch of the listing. `final`: the listing ended with it.

    `extension`: 0 in the first listing, one more each time that what was added to the source is taken in.
    """

    number: int
    first_image: int
    images: int
    first_unit: int
    units: int
    bytes: int
    final: bool
    extension: int = 0


@dataclass(frozen=True)
class Unit:
    """A bounded range of outputs; the smallest thing committed.

    `indices`: the positions of `outputs` in the unit as planned, in order; in a later round there are only some.
    """

    id: int
    outputs: tuple[Output, ...]
    indices: tuple[int, ...]

    def output(self, index: int) -> Output:
        """The output at a position of the unit as planned."""
        return self.outputs[bisect_left(self.indices, index)]


class Feed(Protocol):
    """Units still to be done.

    `outputs` are known so far, `committed_outputs` of them were committed before; all are known once it is `listed`.
    `listing` while there may be more units. `error` is what ended the listing before its end: what was listed until
    then can still be done.
    """

    outputs: int
    committed_outputs: int
    listed: bool
    listing: bool
    error: BaseException | None

    def next(self) -> Unit | None:
        """The next unit, or None if there is none at present."""
        ...

    def close(self) -> None:
        """No more units are wanted."""
        ...


class Plan:
    """Reads and extends the plan of one run."""

    def __init__(self, store: Store, variants: Variants, unit_size: int, columns: Sequence[pa.Field] = ()):
        self._store = store
        self._variants = variants
        self._unit_size = unit_size
        self._schema = pa.schema([*_REF_FIELDS, *columns])

    def chunks(self) -> list[Chunk]:
        """The chunks frozen so far, in order."""
        return read_chunks(self._store)

    def units(self, chunk: Chunk) -> Iterator[Unit]:
        """The units of a chunk, in order."""
        outputs = (
            Output(image, variant)
            for position, image in enumerate(self._images(chunk), chunk.first_image)
            for variant in self._variants.of(image, position)
        )
        for number in range(chunk.first_unit, chunk.first_unit + chunk.units):
            of_unit = tuple(islice(outputs, self._unit_size))
            yield Unit(number, of_unit, tuple(range(len(of_unit))))

    def unit_sizes(self, chunk: Chunk) -> dict[int, int]:
        """How many outputs each unit of a chunk has."""
        outputs, size = chunk.images * len(self._variants.names), self._unit_size
        return {chunk.first_unit + i: min(size, outputs - i * size) for i in range(chunk.units)}

    def extend(self, source: Source, *, again: bool = False) -> Iterator[Chunk]:
        """Go on with the listing behind its last entry, freezing and yielding one chunk after the other.

        With `again`, what was added to the source since it was listed to its end is taken in, wherever it stands; an
        extension that was interrupted is taken up in any case. Raises RunBusyError if another driver froze a chunk.
        """
        frozen = self.chunks()
        last = frozen[-1] if frozen else None
        if last is None or not (last.final or last.extension):
            after = next((self._images(c)[-1] for c in reversed(frozen) if c.images), None)
            for last in self._freeze_all(source.images(after), frozen, 0):
                yield last
            frozen = self.chunks() if again else []
        elif not last.final:
            yield from self._freeze_all(self._added(source, frozen), frozen, last.extension)
            return
        if again and frozen:
            added = self._added(source, frozen)
            if (first := next(added, None)) is not None:
                yield from self._freeze_all(chain([first], added), frozen, frozen[-1].extension + 1)

    def _added(self, source: Source, frozen: Sequence[Chunk]) -> Iterator[ImageRef]:
        """The images of the source that the frozen chunks don't hold."""
        known = Identities(image for chunk in frozen for image in self._images(chunk))
        return (image for image in source.images() if image not in known)

    def _freeze_all(self, images: Iterator[ImageRef], frozen: Sequence[Chunk], extension: int) -> Iterator[Chunk]:
        last = frozen[-1] if frozen else None
        number = sum(chunk.extension == extension for chunk in frozen)
        following = next(images, None)
        while last is None or last.extension < extension or not last.final:
            wanted = self._chunk_size(number)
            buffer = [] if following is None else [following, *islice(images, wanted - 1)]
            following = next(images, None)
            last = self._freeze(last, buffer, extension, final=following is None)
            number += 1
            yield last

    def _chunk_size(self, number: int) -> int:
        """A multiple of the unit size, so that only the last chunk of a listing ends with a short unit."""
        return self._unit_size * min(2**number, max(1, CHUNK_IMAGES // self._unit_size))

    def _freeze(self, last: Chunk | None, images: Sequence[ImageRef], extension: int, *, final: bool) -> Chunk:
        outputs = len(images) * len(self._variants.names)
        chunk = Chunk(
            number=last.number + 1 if last else 0,
            first_image=last.first_image + last.images if last else 0,
            images=len(images),
            first_unit=last.first_unit + last.units if last else 0,
            units=-(-outputs // self._unit_size),
            bytes=sum(image.bytes or 0 for image in images),
            final=final,
            extension=extension,
        )
        rows = [{**image.columns, **_ref_row(image)} for image in images]
        schema = self._schema.with_metadata({"pixgrad_chunk": json.dumps(asdict(chunk))})
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
        if not self._store.create(chunk_name(chunk.number), seal(buffer.getvalue())):
            raise RunBusyError(f"Another driver is listing into {self._store.url}; stop one of them.")
        return chunk

    def _images(self, chunk: Chunk) -> list[ImageRef]:
        table = read_sealed(self._store, chunk_name(chunk.number))
        names = [name for name in table.column_names if name not in RESERVED]
        return [
            ImageRef(**{k: row[k] for k in RESERVED}, columns={k: row[k] for k in names}) for row in table.to_pylist()
        ]


def read_chunks(store: Store) -> list[Chunk]:
    """The chunks frozen so far under a run's folder, in order, from their headers alone. Raises DamagedError."""
    return sorted((read_chunk(store, entry.name) for entry in store.list("plan")), key=lambda chunk: chunk.number)


def read_chunk(store: Store, name: str) -> Chunk:
    """A chunk from its header alone. Raises DamagedError."""
    try:
        with store.open(name) as file:
            metadata = pq.ParquetFile(file).schema_arrow.metadata or {}
        return Chunk(**json.loads(metadata[b"pixgrad_chunk"]))
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedError(f"{store.url}/{name} is damaged ({first_line(error)}); restore it from a copy.") from None


class UnitFeed:
    """The feed of round 0, as a thread lists the source: units of frozen chunks first."""

    def __init__(self, plan: Plan, source: Source, committed: Collection[int], *, extend: bool = False):
        self._plan = plan
        self._source = source
        self._extend = extend
        self._committed = committed
        self._arrived: queue.SimpleQueue[Chunk | BaseException | None] = queue.SimpleQueue()
        self._units: Iterator[Unit] = iter(())
        self.outputs = 0
        self.committed_outputs = 0
        self.listed = False
        self.listing = True
        self.error: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._list, name="listing", daemon=True)
        self._thread.start()

    def next(self) -> Unit | None:
        """See `Feed`."""
        while True:
            unit = next(self._units, None)
            if unit is not None:
                return unit
            if not self.listing or self._arrived.empty():
                return None
            self._receive(self._arrived.get())

    def close(self) -> None:
        """Stop listing after the chunk under way; gives up waiting for it after some seconds."""
        self._closed.set()
        self._thread.join(timeout=10)

    def _receive(self, arrived: Chunk | BaseException | None) -> None:
        if arrived is None:
            self.listing = False
        elif isinstance(arrived, BaseException):
            self.error = arrived
            self.listing = False
        else:
            done = self._committed_of(arrived)
            if len(done) < arrived.units:
                self._units = (unit for unit in self._plan.units(arrived) if unit.id not in done)

    def _committed_of(self, chunk: Chunk) -> set[int]:
        return {unit for unit in range(chunk.first_unit, chunk.first_unit + chunk.units) if unit in self._committed}

    def _count(self, chunk: Chunk) -> None:
        """Count a chunk as soon as it is listed, long before its turn comes."""
        sizes = self._plan.unit_sizes(chunk)
        self.outputs += sum(sizes.values())
        self.committed_outputs += sum(sizes[unit] for unit in self._committed_of(chunk))

    def _list(self) -> None:
        try:
            for chunk in chain(self._plan.chunks(), self._plan.extend(self._source, again=self._extend)):
                self._count(chunk)
                self._arrived.put(chunk)
                if self._closed.is_set():
                    return
            self.listed = True
            self._arrived.put(None)
        except BaseException as error:
            self._arrived.put(error)


def planned_units(chunks: Iterable[Chunk]) -> int:
    """How many units the chunks hold."""
    return sum(chunk.units for chunk in chunks)


def _ref_row(image: ImageRef) -> dict[str, object]:
    return {name: getattr(image, name) for name in RESERVED}
