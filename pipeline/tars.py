"""WebDataset tars as a source: members are found by their headers alone, and never extracted."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import SEEK_END
from itertools import groupby
from typing import Any, BinaryIO, cast

from pipeline.listing import IMAGE_SUFFIXES, Source, SourceError, behind, folder_label, gone, numbered, suffix
from workers.records import ImageRef
from workers.storage import encode, open_store

_HEADER_LIMIT = 2**20
_LABEL_LIMIT = 2**20
_CHUNK = 2**20


class Tars(Source):
    """The images in uncompressed tars.

    An image is a regular member with an image's ending; hidden ones (a dot before any part of the name) are passed
    over, and so are links and devices. `labels`: "folder" for the first folder of the member's name; else the ending
    of a text file beside the image in its sample (`cls`, `txt`), or a field of the sample's `.json`. A sample is what
    follows each other in the tar under one name up to the first dot of its last part, as in WebDataset.
    """

    def __init__(self, root: str, names: Sequence[str], labels: str | None):
        super().__init__(root, f"{root}/{names[0]}" + (f" and {len(names) - 1} others" if names[1:] else ""))
        self._names = list(names)
        self._labels = labels
        self._store = open_store(root)
        self._store.size(self._names[0])

    def _list(self, after: ImageRef | None) -> Iterator[ImageRef]:
        if after is not None and after.uri not in self._names:
            raise gone(after)
        first = self._names.index(after.uri) if after else 0
        for name in self._names[first:]:
            yield from behind(numbered(self._tar(name)), after if after and after.uri == name else None)

    def _tar(self, name: str) -> Iterator[ImageRef]:
        where = f"{self._store.url}/{name}"
        with self._store.open(name) as file:
            members = read_members(file, where)
            if self._labels in (None, "folder"):
                for member in members:
                    yield from self._image(name, member, folder_label(member.name) if self._labels else None)
                return
            for _, group in groupby(members, key=lambda member: member.sample):
                sample = list(group)
                label = _sibling_label(file, sample, self._labels or "", where)
                for member in sample:
                    yield from self._image(name, member, label)

    def _image(self, tar: str, member: Member, label: str | None) -> Iterator[ImageRef]:
        if member.visible and suffix(member.name) in IMAGE_SUFFIXES:
            yield ImageRef(tar, encode(member.name), member.offset, member.size, label)
        else:
            self.ignored[suffix(member.name)] += 1


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar: its name and where its bytes lie."""

    name: str
    offset: int
    size: int

    @property
    def visible(self) -> bool:
        """Whether no part of the name begins with a dot."""
        return not any(part.startswith(".") for part in self.name.split("/") if part not in (".", ".."))

    @property
    def sample(self) -> str:
        """The name that the members of one sample share: all up to the first dot of the last part."""
        folder, slash, file = self.name.rpartition("/")
        return folder + slash + file.partition(".")[0]

    @property
    def extension(self) -> str:
        """What follows the sample's name, without the dot."""
        return self.name[len(self.sample) + 1 :]


def read_members(file: BinaryIO, where: str) -> Iterator[Member]:
    """The regular files of a tar, from its headers; the data between them is skipped unread.

    Raises SourceError that names the tar (`where`) and the byte, where it is torn, damaged or stored sparse: behind
    the last member a whole tar has zeros, at least one block of them, and nothing else.
    """
    position, size = 0, file.seek(0, SEEK_END)
    file.seek(0)
    try:
        headers = cast(BinaryIO, _Headers(file))
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # else it keeps the headers of the whole tar
                if not position < tar.offset <= size:
                    raise tarfile.ReadError("the member there goes past the end of the file")
                _check_member(member, size)
                position = tar.offset
                if member.isreg():
                    yield Member(member.name, member.offset_data, member.size)
        if size - position < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the end mark is missing")
        _check_end(file, position)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise SourceError(
            f"{where} is damaged, cut off or still being written at byte {position} ({_plain(error)}); "
            "put a whole, uncompressed tar in its place and run the same command again."
        ) from error


def _check_member(member: tarfile.TarInfo, size: int) -> None:
    if member.issparse() or any(name.startswith("GNU.sparse.") for name in member.pax_headers):
        raise tarfile.ReadError(f"{member.name!r} is stored sparse, write it again without holes")
    if member.isreg() and not 0 <= member.size <= size - member.offset_data:  # extended headers can say anything
        raise tarfile.ReadError(f"{member.name!r} is said to have {member.size} bytes")


def _check_end(file: BinaryIO, position: int) -> None:
    file.seek(position)
    while chunk := file.read(_CHUNK):
        if chunk.count(0) != len(chunk):
            raise tarfile.ReadError("no member's header and no end mark")


def _plain(error: Exception) -> str:
    return str(error).encode("unicode_escape").decode().rstrip(".") or type(error).__name__


class _Headers:
    """A file for tarfile, which may read headers from it, but no more than a header can hold."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _sibling_label(file: BinaryIO, sample: Iterable[Member], labels: str, where: str) -> str | None:
    by_extension = {member.extension: member for member in sample}
    if labels in by_extension:
        return _text(file, by_extension[labels], where).strip() or None
    if "json" not in by_extension:
        return None
    try:
        fields = json.loads(_text(file, by_extension["json"], where))
    except (ValueError, RecursionError):
        return None
    value = fields.get(labels) if isinstance(fields, dict) else None
    return None if value is None else str(value).encode(errors="replace").decode()  # JSON can hold half a character


def _text(file: BinaryIO, member: Member, where: str) -> str:
    if member.size > _LABEL_LIMIT:
        raise SourceError(f"{member.name!r} in {where} has {member.size} bytes, too many for a label.")
    file.seek(member.offset)
    return file.read(member.size).decode(errors="replace")
