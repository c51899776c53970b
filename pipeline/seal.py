"""Parquet files that show when a single byte of them has changed, which Parquet's own optional checksums can't.

A file ends with its footer and the footer's length; readers find everything else by its offset from the start. So 32
bytes before the footer are read by nobody: there stands the SHA-256 of all the others.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from workers.errors import PixgradError, first_line
from workers.storage import Store

_SEAL = hashlib.sha256().digest_size
_TAIL = 8
"""Behind the footer: its length in four bytes, little endian, and "PAR1"."""


class DamagedError(PixgradError):
    """A file of a run hasn't the content that was written."""

    exit_code = 6


def seal(parquet: bytes) -> bytes:
    """The Parquet file with its hash before its footer; every reader of Parquet reads it as before."""
    place = _footer(parquet)
    return parquet[:place] + hashlib.sha256(parquet).digest() + parquet[place:]


def is_whole(sealed: bytes) -> bool:
    """Whether every byte of a sealed file is as it was written."""
    place = _footer(sealed) - _SEAL
    rest = hashlib.sha256(sealed[: max(0, place)])
    rest.update(sealed[place + _SEAL :])
    return place > 0 and rest.digest() == sealed[place : place + _SEAL]


def read_sealed(store: Store, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a sealed file, with all columns or just these.

    Raises DamagedError, MissingError, StorageError.
    """
    data = store.read(name)
    try:
        if not is_whole(data):
            raise ValueError("its bytes don't match its seal")
        table = pq.ParquetFile(io.BytesIO(data)).read(columns=None if columns is None else list(columns))
        if lacking := set(columns or ()) - set(table.column_names):
            raise ValueError(f"it lacks the columns {', '.join(sorted(lacking))}")
    except (pa.ArrowException, OSError, ValueError) as error:
        sentence = f"{store.url}/{name} is damaged ({first_line(error)}); restore it from a copy."
        raise DamagedError(sentence) from error
    return table


def _footer(parquet: bytes) -> int:
    return len(parquet) - _TAIL - int.from_bytes(parquet[-_TAIL : -_TAIL + 4], "little")


def damage(error: Exception) -> str:
    """What is wrong with a record that can't be read, in a few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return first_line(error)
