"""Hostile tars and tables are listed within their own bounds, or refused with a sentence."""

from __future__ import annotations

import io
import random
import tarfile
from codecs import BOM_UTF8
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SourceParams
from pipeline.listing import SourceError
from pipeline.source import open_source
from workers.fetch import Fetcher
from workers.records import ImageRef

BLOCK = tarfile.BLOCKSIZE
FIELDS = ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155), (386, 96), (482, 13))
"""Offset and length of what a header has: name, mode, size, time, type, link, magic, prefix, and GNU's sparse map."""
KEYWORDS = [b"size", b"path", b"linkpath", b"hdrcharset", b"mtime", b"comment"]
KEYWORDS += [b"GNU.sparse." + end for end in (b"size", b"realsize", b"name", b"map", b"major", b"minor", b"numblocks")]
WORDS = [b"", b"0", b"-1", b"1", b"x", b"1,2,3", b"9" * 20, b"BINARY", b"\xff", b"\0", b"1e3", b"nan", b"../x.jpg"]


def listed(path: Path, labels: str | None = None) -> list[ImageRef]:
    return list(open_source(SourceParams(uri=str(path), labels=labels), reserved=frozenset()).images())


def tar_of(
    members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT, headers: dict[str, str] | None = None
) -> bytearray:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), headers or {}
            tar.addfile(info, io.BytesIO(data))
    return bytearray(buffer.getvalue())


def change_a_header(data: bytearray, at: int, chance: random.Random) -> None:
    """Damage that the header's checksum confirms."""
    offset, length = chance.choice(FIELDS)
    if chance.random() < 0.5:
        data[at + offset : at + offset + length] = bytes([chance.choice(b"\0\xff\x80 79-/")]) * length
    else:
        data[at + offset + chance.randrange(length)] = chance.randrange(256)
    header = data[at : at + 148] + b" " * 8 + data[at + 156 : at + BLOCK]
    data[at + 148 : at + 156] = b"%06o\0 " % sum(header)


def extended_header(chance: random.Random) -> bytes:
    """Records of pax, whose lengths may lie, for the next member or for all that follow."""
    body = b""
    for _ in range(chance.randint(1, 3)):
        record = b" " + chance.choice(KEYWORDS) + b"=" + chance.choice(WORDS) + b"\n"
        length = len(record) + len(str(len(record) + 2))
        body += (b"%d" % length if chance.random() < 0.9 else chance.choice(WORDS)) + record
    info = tarfile.TarInfo("header")
    info.type, info.size = chance.choice([tarfile.XHDTYPE, tarfile.XGLTYPE]), len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % BLOCK)


def hostile_tar(chance: random.Random) -> bytes:
    members = {"a.jpg": b"data", "ü" * 70 + ".jpg": b"long", "s.json": b'{"kind": 1}', "s.jpg": bytes(700)}
    data = tar_of(members, chance.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    headers = [at for at in range(0, len(data), BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    for _ in range(chance.randint(0, 3)):
        change_a_header(data, chance.choice(headers), chance)
    for at in sorted(chance.sample(headers, chance.randint(0, 2)), reverse=True):
        data[at:at] = extended_header(chance)
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(st.randoms(), st.sampled_from([None, "folder", "kind"]))
def test_members_lie_within_their_tar(chance: random.Random, labels: str | None) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.tar"
        path.write_bytes(data := hostile_tar(chance))
        try:
            refs = listed(path, labels)
        except SourceError as error:
            assert str(error).isprintable() and len(str(error)) > 20
            return
        for ref in refs:
            assert ref.offset is not None and ref.bytes is not None
            assert 0 < ref.offset <= ref.offset + ref.bytes <= len(data)
            assert Fetcher(folder, len(data)).fetch(ref) == data[ref.offset : ref.offset + ref.bytes]


@pytest.mark.parametrize("size", ["-1", "9" * 20, "4096"])
@pytest.mark.parametrize("keyword", ["size", "GNU.sparse.size", "GNU.sparse.realsize"])
def test_extended_headers_that_lie_about_sizes_are_refused(tmp_path: Path, keyword: str, size: str) -> None:
    (tmp_path / "x.tar").write_bytes(
        tar_of({"a.jpg": b"data"}, headers={keyword: size})[: 4 * BLOCK] + bytes(2 * BLOCK)
    )
    with pytest.raises(SourceError, match="at byte 0 "):
        listed(tmp_path / "x.tar")


def test_a_label_with_half_a_character_is_text(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of({"a.jpg": b"", "a.json": b'{"kind": "\\ud800a"}'}))
    [image] = listed(tmp_path / "x.tar", "kind")
    assert image.label == "?a" and pa.array([image.label]).type == pa.string()


def test_a_byte_order_mark_is_no_part_of_the_first_uri(tmp_path: Path) -> None:
    for name, text in (("x.txt", b"a.jpg\nb.jpg\n"), ("x.csv", b"uri\na.jpg\nb.jpg\n")):
        (tmp_path / name).write_bytes(BOM_UTF8 + text)
        assert [image.uri for image in listed(tmp_path / name)] == ["a.jpg", "b.jpg"]
