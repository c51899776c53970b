"""A sealed file is still Parquet, and no byte of it changes unseen."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.seal import is_whole, seal


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"number": list(range(50)), "text": [f"row {i}" for i in range(50)]}), buffer)
    return buffer.getvalue()


PLAIN = parquet()
SEALED = seal(PLAIN)


def test_a_sealed_file_reads_as_before() -> None:
    assert pq.read_table(io.BytesIO(SEALED)).equals(pq.read_table(io.BytesIO(PLAIN)))
    assert is_whole(SEALED) and not is_whole(PLAIN)


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_no_byte_changes_unseen(place: int, bits: int) -> None:
    changed = bytearray(SEALED)
    changed[place] ^= bits
    assert not is_whole(bytes(changed))


@given(st.integers(0, len(SEALED)), st.integers(0, 64), st.binary(max_size=64))
def test_no_bytes_are_cut_or_put_in_unseen(place: int, length: int, inserted: bytes) -> None:
    changed = SEALED[:place] + inserted + SEALED[place + length :]
    assert is_whole(changed) == (changed == SEALED)


@given(st.binary(max_size=200))
def test_bytes_of_another_kind_are_not_whole(data: bytes) -> None:
    assert not is_whole(data)
