"""Damage to whole files, of the kinds that decoders meet, and a process that decodes one such file after the other.

As a script, `damage.py FOLDER FIRST COUNT` decodes mutations number FIRST, FIRST + 1, … of the files in FOLDER and
prints a hash of all that came of it. The file under way lies in FOLDER/.current: it is there if the process dies of it.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from workers.codec import decode
from workers.errors import ImageError
from workers.geometry import plan_frame
from workers.params import ImageParams

CODES = {"empty", "not_an_image", "unsupported", "truncated", "corrupt", "too_large", "too_small"}
IMAGES = ImageParams.model_validate({"short_side": 32, "snap": 16, "max_pixels": 1_000_000})
MEMORY = 400 * 2**20
"""Bytes that a process may hold at most while it decodes pictures of up to a million pixels."""

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def mutate(files: Sequence[bytes], chance: random.Random) -> bytes:
    """One of the files with some damage: bits, bytes, numbers, cuts, repeats, and pieces of another file."""
    data = bytearray(chance.choice(files))
    for _ in range(chance.randint(1, 4)):
        if data:
            chance.choice(_MUTATIONS)(data, files, chance)
    return _with_checksums(data) if chance.random() < 0.5 else bytes(data)


def outcome(data: bytes) -> str:
    """Decode; a hash of the picture, which has the frame asked for, or the sentence of the refusal."""
    try:
        decoded = decode(data, IMAGES)
    except ImageError as error:
        assert error.code in CODES and str(error) and "\n" not in str(error), repr(error)
        return str(error)
    frame = plan_frame(decoded.source_width, decoded.source_height, IMAGES).frame
    assert decoded.pixels.dtype == np.uint8 and decoded.pixels.shape == (*frame, 3) and decoded.frame == frame
    assert np.isfinite(decoded.transform).all()
    return hashlib.sha256(decoded.pixels.tobytes()).hexdigest()


def main(folder: Path, first: int, count: int) -> None:
    """Decode so many mutations. An AssertionError names the first that doesn't end as it should."""
    files = [path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    found = hashlib.sha256()
    for number in range(first, first + count):
        data = mutate(files, random.Random(number))
        (folder / ".current").write_bytes(data)
        try:
            found.update(outcome(data).encode())
        except BaseException as error:
            raise AssertionError(f"mutation {number}: {error!r}") from error
        if "MALLOC_PERTURB_" not in os.environ:  # which writes to memory that was only reserved
            assert peak_memory() < MEMORY, f"mutation {number}: {peak_memory()} bytes of memory"
    print(found.hexdigest())


def peak_memory() -> int:
    """The most bytes that this process has held, as Linux tells; getrusage counts what its parent held too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _place(data: bytearray, chance: random.Random) -> int:
    """Somewhere in the data, half the time among the first bytes, where the headers are."""
    return chance.randrange(min(len(data), 128) if chance.random() < 0.5 else len(data))


def _flip_bit(data: bytearray, _files: Sequence[bytes], chance: random.Random) -> None:
    data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set_byte(data: bytearray, _files: Sequence[bytes], chance: random.Random) -> None:
    data[_place(data, chance)] = chance.randrange(256)


def _set_number(data: bytearray, _files: Sequence[bytes], chance: random.Random) -> None:
    """An extreme value where a length, a size or an offset may be: of 16 or 32 bits, in either order of bytes."""
    size, at = chance.choice((2, 4)), _place(data, chance)
    value = chance.choice(EXTREMES) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, chance.choice(("big", "little")))


def _cut_out(data: bytearray, _files: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 2, 4, 64, len(data)))]


def _repeat(data: bytearray, _files: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = data[at : at + chance.choice((1, 4, 64))] * chance.choice((1, 2, 16))


def _insert(data: bytearray, _files: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = chance.randbytes(chance.choice((1, 4, 32)))


def _splice(data: bytearray, files: Sequence[bytes], chance: random.Random) -> None:
    other = chance.choice(files)
    data[_place(data, chance) :] = other[chance.randrange(len(other)) :]


_MUTATIONS: list[Callable[[bytearray, Sequence[bytes], random.Random], None]] = [
    _flip_bit,
    _set_byte,
    _set_number,
    _set_number,
    _cut_out,
    _repeat,
    _insert,
    _splice,
]


def _with_checksums(data: bytearray) -> bytes:
    """PNG's checksums made right again, so that what is damaged gets past them."""
    at = 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
