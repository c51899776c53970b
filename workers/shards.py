"""A shard: a tar of outputs in WebDataset's layout, written as it goes and hashed on the way. No torch."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, cast

from workers.storage import Store


class ShardWriter:
    """Adds samples to a tar. The same samples in the same order give the same bytes: no times, no owners."""

    def __init__(self, file: IO[bytes]):
        self._hashing = _HashingWriter(file)
        self._tar = tarfile.open(  # noqa: SIM115 - closed by close()
            fileobj=cast(IO[bytes], self._hashing), mode="w|", format=tarfile.USTAR_FORMAT
        )

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """Add one sample: `files` by extension without the dot, all named `<key>.<extension>`."""
        for extension, data in files.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            info.mode = 0o644
            self._tar.addfile(info, io.BytesIO(data))

    def close(self) -> str:
        """End the tar; its sha256."""
        self._tar.close()
        return self._hashing.digest.hexdigest()


@contextmanager
def shard_writer(store: Store, name: str) -> Iterator[ShardWriter]:
    """A shard that appears under `name`, whole and durable, when the block ends without an error."""
    with store.writer(name) as file:
        yield ShardWriter(file)


class _HashingWriter:
    def __init__(self, file: IO[bytes]):
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)
