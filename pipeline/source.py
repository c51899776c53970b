"""Where images come from: a folder, WebDataset tars or tables, on a disk or in an object store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.config import SourceParams
from pipeline.listing import IMAGE_SUFFIXES, Source, SourceError, behind, folder_label, suffix
from pipeline.patterns import absolute, find_files, is_pattern, lies_in, relative_to
from pipeline.tables import TABLE_SUFFIXES, Table
from pipeline.tars import Tars
from workers.records import ImageRef
from workers.storage import is_remote, open_store

__all__ = ["Source", "SourceError", "open_source"]

_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4")


def open_source(params: SourceParams, *, reserved: frozenset[str], exclude: str | None = None) -> Source:
    """The source that a job names.

    `reserved`: names that a table's own columns can't have. `exclude`: the run's own output folder, whose files are
    no part of the source. Raises SourceError or StorageError if there is no such source or it doesn't fit.
    """
    uri, labels = params.uri, params.labels
    place = absolute(uri)
    folder = uri.endswith("/") if is_remote(uri) else Path(place).is_dir()
    kind = "" if folder else suffix(place)
    if kind == ".tar":
        return Tars(*find_files(uri, exclude), labels)
    if kind in TABLE_SUFFIXES:
        return Table(*find_files(uri, exclude), labels, reserved)
    if labels not in (None, "folder"):
        raise SourceError(f"labels: {labels} needs tars or a table; for {uri} it can be folder, or null.", "labels")
    if kind in IMAGE_SUFFIXES or (is_pattern(uri) and not place.lower().endswith(_COMPRESSED_TARS)):
        return Images(*find_files(uri, exclude), labels)
    if not folder:
        _check_prefix(uri, place)
    return Folder(place, labels, relative_to(place, exclude))


def _check_prefix(uri: str, place: str) -> None:
    """Raise SourceError if what is no folder on a disk can't be the prefix of an object store either."""
    if place.lower().endswith(_COMPRESSED_TARS):
        raise SourceError(f"{uri} is compressed; decompress it, so that workers can read its images one by one.")
    if is_remote(uri):
        return
    if not Path(place).exists():
        raise SourceError(f"There is no folder or file {place}.")
    raise SourceError(f"{uri} is no source; give a folder, an image, or *{', *'.join(('.tar', *TABLE_SUFFIXES))}.")


class Folder(Source):
    """The image files under a folder or an object store's prefix, at any depth. Hidden files are passed over."""

    def __init__(self, root: str, labels: str | None, excluded: str | None):
        super().__init__(root, root)
        self._labels = labels
        self._excluded = excluded
        self._store = open_store(root)

    def _list(self, after: ImageRef | None) -> Iterator[ImageRef]:
        for name, size in self._store.list(after=after.uri if after else None):
            if lies_in(name, self._excluded):
                continue
            if suffix(name) in IMAGE_SUFFIXES:
                yield ImageRef(name, bytes=size, label=folder_label(name) if self._labels else None)
            else:
                self.ignored[suffix(name)] += 1


class Images(Source):
    """The image files that a path, a glob or braces name."""

    def __init__(self, root: str, names: Sequence[str], labels: str | None):
        super().__init__(root, root)
        self._names = names
        self._labels = labels
        open_store(root).size(names[0])

    def _list(self, after: ImageRef | None) -> Iterator[ImageRef]:
        yield from behind(self._images(), after)

    def _images(self) -> Iterator[ImageRef]:
        for name in self._names:
            if suffix(name) in IMAGE_SUFFIXES:
                yield ImageRef(name, label=folder_label(name) if self._labels else None)
            else:
                self.ignored[suffix(name)] += 1
