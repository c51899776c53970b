"""What all sources share: which files are images, names that occur again, going on with an interrupted listing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from posixpath import splitext
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from workers.errors import PixgradError
from workers.records import ImageRef

IMAGE_SUFFIXES = frozenset(
    f".{kind}"
    for kinds in (
        ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "avif", "jp2", "j2k"),
        ("tif", "tiff", "gif", "bmp", "ppm", "pgm", "pbm", "pnm"),
    )
    for kind in kinds
)
"""Files with these endings, in upper or lower case, are images; Pillow reads them all."""


class SourceError(PixgradError):
    """The source can't be listed as asked; `key` is the one of `source` that says so."""

    def __init__(self, sentence: str, key: str = "uri"):
        super().__init__(sentence)
        self.key = key


class Source(ABC):
    """A collection of images.

    `root`: the folder (an absolute path) or object-store prefix that relative URIs start from, for `workers.fetch`.
    `columns`: the other columns that each image brings along, with their types.
    `ignored`: how many files the last listing passed over because they aren't images, by file name ending.
    `by_suffix`: whether what is an image goes by its ending.
    """

    by_suffix = True

    def __init__(self, root: str, place: str):
        self.root = root
        self.columns: list[pa.Field] = []
        self.ignored: Counter[str] = Counter()
        self._place = place

    def images(self, after: ImageRef | None = None) -> Iterator[ImageRef]:
        """The images in a fixed order, read as they are asked for, from the first one behind `after`.

        Raises SourceError if there are none at all, if `after` is gone, or where the source is damaged;
        StorageError if it can't be read.
        """
        self.ignored.clear()
        empty = after is None
        for image in self._list(after):
            empty = False
            yield image
        if empty:
            raise SourceError(self._no_images())

    @abstractmethod
    def _list(self, after: ImageRef | None) -> Iterator[ImageRef]: ...

    def _no_images(self) -> str:
        others = ", ".join(f"{count} {suffix or 'without ending'}" for suffix, count in self.ignored.most_common(5))
        found = f" (other files: {others})" if others else ""
        endings = f" Images end in {', '.join(sorted(IMAGE_SUFFIXES))}." if self.by_suffix else ""
        return f"There are no images in {self._place}{found}.{endings}"


def suffix(name: str) -> str:
    """The ending of a file's name in lower case, with its dot; "" if it has none."""
    return splitext(name)[1].lower()


def folder_label(name: str) -> str | None:
    """The first folder of a relative name, decoded; None if it lies in no folder."""
    folders = [part for part in name.split("/")[:-1] if part not in ("", ".", "..")]
    return unquote(folders[0]) if folders else None


def behind(images: Iterator[ImageRef], after: ImageRef | None) -> Iterator[ImageRef]:
    """The images that follow `after`. Raises SourceError if it isn't among them."""
    if after is not None and not any((i.uri, i.member) == (after.uri, after.member) for i in images):
        raise gone(after)
    yield from images


def gone(after: ImageRef) -> SourceError:
    """The error for a source that has changed since its listing was interrupted."""
    where = after.uri if after.member is None else f"{after.member} of {after.uri}"
    return SourceError(
        f"The listing stopped after {where}, which the source no longer has; put it back, or begin a new run."
    )


def numbered(images: Iterable[ImageRef]) -> Iterator[ImageRef]:
    """The images, where the second of the same URI and member is told apart as member `…#2`, the third as `…#3`.

    Members are percent-encoded, so that none has a "#" of its own.
    """
    occurrences = Occurrences()
    for image in images:
        count = occurrences.count(f"{image.uri}#{image.member or ''}")
        yield image if count == 1 else replace(image, member=f"{image.member or ''}#{count}")


class Occurrences:
    """Counts how often each name has occurred.

    Keeps 64 bits of a hash of each name in sorted runs: 8 bytes a name (16 while runs are merged), and about 100 for
    one that repeats. Two names in collision would be counted as one, which costs no identity: they differ anyway.
    """

    _RECENT = 1 << 16

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._runs: list[array[int]] = []
        self._repeated: dict[int, int] = {}

    def count(self, name: str) -> int:
        """How often `name` has occurred, with this time: 1 or more."""
        digest = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
        if digest in self._repeated or digest in self._recent or any(_holds(run, digest) for run in self._runs):
            self._repeated[digest] = self._repeated.get(digest, 1) + 1
            return self._repeated[digest]
        self._recent.add(digest)
        if len(self._recent) == self._RECENT:
            self._settle()
        return 1

    def _settle(self) -> None:
        run = np.sort(np.fromiter(self._recent, np.uint64, len(self._recent)))
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.sort(np.concatenate([run, np.frombuffer(self._runs.pop(), np.uint64)]), kind="stable")
        self._runs.append(array("Q", run.tobytes()))
        self._recent.clear()


class Identities:
    """The identities of many images, 16 bytes each: 128 bits of a hash, so that no two are ever taken for one."""

    def __init__(self, images: Iterable[ImageRef]):
        self._digests = np.sort(np.frombuffer(b"".join(map(_digest, images)), "S16"))

    def __contains__(self, image: ImageRef) -> bool:
        digest = np.frombuffer(_digest(image), "S16")
        place = int(np.searchsorted(self._digests, digest[0]))
        return place < len(self._digests) and self._digests[place] == digest[0]


def _digest(image: ImageRef) -> bytes:
    return blake2b(f"{image.uri}\0{image.member or ''}".encode(), digest_size=16).digest()


def _holds(run: array[int], digest: int) -> bool:
    place = bisect_left(run, digest)
    return place < len(run) and run[place] == digest
