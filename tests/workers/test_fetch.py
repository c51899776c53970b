from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers.errors import ImageError
from workers.fetch import Fetcher
from workers.records import ImageRef
from workers.storage import encode

LIMIT = 1000


def fetch(root: str, ref: ImageRef, limit: int) -> bytes:
    return Fetcher(root, limit).fetch(ref)


def refused(root: Path, ref: ImageRef, limit: int = LIMIT) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch(str(root), ref, limit)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return caught.value


@pytest.mark.parametrize("name", ["a.jpg", "a b#?%.jpg", "new\nline.jpg", "写真/ü.jpg", os.fsdecode(b"\xff.jpg")])
def test_a_whole_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"data")
    assert fetch(str(tmp_path), ImageRef(encode(name), bytes=4), LIMIT) == b"data"
    assert fetch(str(tmp_path), ImageRef(encode(name)), LIMIT) == b"data"


def test_absolute_uris_need_no_root(tmp_path: Path) -> None:
    (tmp_path / "a b.jpg").write_bytes(b"data")
    for uri in (f"{tmp_path}/a%20b.jpg", f"file://{tmp_path}/a%20b.jpg"):
        assert fetch("/nowhere", ImageRef(uri), LIMIT) == b"data"


def test_uris_may_lead_above_the_root(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"data")
    assert fetch(str(tmp_path / "tables"), ImageRef("../a.jpg"), LIMIT) == b"data"


def test_a_range_of_a_tar(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"headDATAtail")
    assert fetch(str(tmp_path), ImageRef("0.tar", "a.jpg", 4, 4), LIMIT) == b"DATA"
    assert fetch(str(tmp_path), ImageRef("0.tar", "empty.jpg", 4, 0), LIMIT) == b""


def test_what_is_gone_is_missing(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for uri in ("no.jpg", "folder.jpg", "", "a/b.jpg", "/no/such.jpg", "%2E%2E/no.jpg"):
        assert refused(tmp_path, ImageRef(uri)).code == "missing"
    assert refused(tmp_path, ImageRef("no.tar", "a.jpg", 0, 4)).code == "missing"


def test_what_cannot_be_read_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "cut.tar").write_bytes(b"only this")
    assert refused(tmp_path, ImageRef("file/a.jpg")).code == "unreadable"
    assert refused(tmp_path, ImageRef("a%00.jpg")).code == "unreadable"
    assert refused(tmp_path, ImageRef("ftp://host/a.jpg")).code == "unreadable"
    assert refused(tmp_path, ImageRef("s3://b ad/a.jpg")).code == "unreadable"
    cut = refused(tmp_path, ImageRef("cut.tar", "a.jpg", 5, 10))
    assert cut.code == "unreadable" and "cut.tar" in str(cut) and "a.jpg" in str(cut)


@pytest.mark.parametrize("ref", [ImageRef("big.jpg"), ImageRef("big.jpg", bytes=1001), ImageRef("x.tar", "a", 0, 1001)])
def test_too_large_is_refused_before_it_is_read(tmp_path: Path, ref: ImageRef) -> None:
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(1 << 40)  # reading it would end the process
    assert refused(tmp_path, ref).code == "too_large"


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(LIMIT))
    assert len(fetch(str(tmp_path), ImageRef("a.jpg"), LIMIT)) == LIMIT


def test_a_device_is_not_read(tmp_path: Path) -> None:
    assert refused(tmp_path, ImageRef("/dev/zero")).code == "missing"
