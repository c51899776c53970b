"""A shard against the hashes that the rows naming it record: read once, from end to end, nothing extracted."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from workers.errors import first_line
from workers.layout import shard_name
from workers.storage import StorageError, Store

Row = Mapping[str, Any]

READ_SIZE = 4 * 2**20
_DAMAGE = (tarfile.TarError, ValueError, ArithmeticError, LookupError, EOFError)
"""What the reader of tars raises at bytes that are no tar's."""


def check_shard(store: Store, shard: str, rows: Sequence[Row]) -> Iterator[str]:
    """Say what is wrong with a shard, given the ok rows that name it. Raises MissingError, StorageError."""
    content = _read(store, shard)
    hashes = dict(content.members)
    keys = {row["key"] for row in rows}
    if any(row["shard_sha256"] != content.sha256 for row in rows):
        yield f"{shard} has not the content that its rows record"
    if content.damage:
        yield f"{shard} is torn ({content.damage})"
    if lost := [row["shard_member"] for row in rows if hashes.get(row["shard_member"]) != row["output_sha256"]]:
        yield f"{len(lost)} of {len(rows)} outputs in {shard} are missing or changed, the first is {lost[0]}"
    if len(hashes) < len(content.members):
        yield f"{shard} has {len(content.members) - len(hashes)} members twice"
    if strange := [name for name in hashes if key_of_member(name) not in keys]:
        yield f"{shard} has {len(strange)} members that no row names, the first is {strange[0]}"


def key_of_member(name: str) -> str:
    """The key of the output that a member belongs to: its name up to the first dot, as in WebDataset."""
    return name.partition(".")[0]


def unit_of_shard(name: str) -> int | None:
    """The unit whose attempt wrote the shard, or None if that is no shard's name."""
    unit, _, attempt = name.removeprefix("shards/").removesuffix(".tar").partition("-")
    if unit.isdecimal() and attempt.isalnum() and name == shard_name(int(unit), attempt):
        return int(unit)
    return None


@dataclass(frozen=True)
class ShardContent:
    """The hash of all of a shard's bytes, its members' names and hashes, and why there aren't more of them."""

    sha256: str
    members: Sequence[tuple[str, str]]
    damage: str | None


def read_shard(file: BinaryIO) -> ShardContent:
    """Read a shard to the end of its file, a few megabytes at a time, whatever is in it."""
    hashing = _HashingReader(file)
    reader = io.BufferedReader(hashing, READ_SIZE)
    members: list[tuple[str, str]] = []
    damage = None
    try:
        with tarfile.open(fileobj=reader, mode="r|") as tar:
            members.extend((member.name, _sha256(tar, member)) for member in tar)
    except _DAMAGE as error:
        damage = first_line(error)
    while reader.read(READ_SIZE):
        pass
    return ShardContent(hashing.digest.hexdigest(), members, damage)


class _HashingReader(io.RawIOBase):
    def __init__(self, file: BinaryIO):
        self._file = file
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)


def _read(store: Store, shard: str) -> ShardContent:
    try:
        with store.open(shard) as file:
            return read_shard(file)
    except OSError as error:
        raise StorageError(f"Can't read {store.url}/{shard}: {os.strerror(error.errno or 0)}.") from error


def _sha256(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member) if member.isfile() else None
    return hashlib.file_digest(cast(Any, content or io.BytesIO()), "sha256").hexdigest()
