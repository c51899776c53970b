from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import workers.fetch
from workers.errors import ImageError
from workers.fetch import Fetcher
from workers.records import ImageRef
from workers.storage import StorageError, encode

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


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Files by name, and the number of the error that the operating system gives when they are opened."""
    numbers: dict[str, int] = {}
    open_path = Path.open

    def open_or_fail(self: Path, *args: Any, **options: Any) -> Any:
        if number := numbers.get(self.name) or numbers.get("*"):
            raise OSError(number, os.strerror(number), str(self))
        return open_path(self, *args, **options)

    monkeypatch.setattr(Path, "open", open_or_fail)
    return numbers


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"data")
    return tmp_path


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL])
def test_what_a_disk_says_of_one_file_is_the_files_own(photos: Path, failing: dict[str, int], number: int) -> None:
    failing["a.jpg"] = number
    error = refused(photos, ImageRef("a.jpg"))
    assert error.code == "unreadable" and os.strerror(number) in str(error)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOTCONN, errno.ETIMEDOUT])
class TestWitness:
    """Errors that may be one file's or the whole disk's: what was read last tells."""

    def test_without_one_it_is_the_disk(self, photos: Path, failing: dict[str, int], number: int) -> None:
        failing["a.jpg"] = number
        with pytest.raises(StorageError, match=r"a\.jpg") as caught:
            Fetcher(str(photos), LIMIT).fetch(ImageRef("a.jpg"))
        assert caught.value.exit_code == 4

    def test_that_can_be_read_blames_the_image(self, photos: Path, failing: dict[str, int], number: int) -> None:
        fetcher = Fetcher(str(photos), LIMIT)
        assert fetcher.fetch(ImageRef("b.jpg")) == b"data"
        failing["a.jpg"] = number
        with pytest.raises(ImageError) as caught:
            fetcher.fetch(ImageRef("a.jpg"))
        assert caught.value.code == "unreadable"

    def test_that_can_be_read_does_not_blame_who_fails_only_twice(
        self, photos: Path, failing: dict[str, int], number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetcher = Fetcher(str(photos), LIMIT)
        fetcher.fetch(ImageRef("b.jpg"))
        failing["a.jpg"] = number
        looks: list[str] = []

        def look(store: Any, name: str) -> bool:
            looks.append(name)
            if len(looks) == 2:
                failing.clear()
            return True

        monkeypatch.setattr(workers.fetch, "_can_read", look)
        assert fetcher.fetch(ImageRef("a.jpg")) == b"data"
        assert looks == ["b.jpg", "b.jpg"]

    def test_that_can_not_be_read_any_more_blames_the_disk(
        self, photos: Path, failing: dict[str, int], number: int
    ) -> None:
        fetcher = Fetcher(str(photos), LIMIT)
        fetcher.fetch(ImageRef("b.jpg"))
        failing["*"] = number
        with pytest.raises(StorageError):
            fetcher.fetch(ImageRef("a.jpg"))
        failing.clear()
        assert fetcher.fetch(ImageRef("a.jpg")) == b"data", "later all is well again"

    def test_is_what_was_read_last(self, photos: Path, failing: dict[str, int], number: int) -> None:
        fetcher = Fetcher(str(photos), LIMIT)
        for name in ("b.jpg", "c.jpg"):
            fetcher.fetch(ImageRef(name))
        (photos / "b.jpg").unlink()
        failing["a.jpg"] = number
        with pytest.raises(ImageError):
            fetcher.fetch(ImageRef("a.jpg"))

    def test_speaks_for_its_own_store_alone(self, photos: Path, failing: dict[str, int], number: int) -> None:
        (photos / "elsewhere").mkdir()
        (photos / "elsewhere" / "b.jpg").write_bytes(b"data")
        fetcher = Fetcher(str(photos), LIMIT)
        fetcher.fetch(ImageRef(f"file://{photos}/elsewhere/b.jpg"))
        failing["a.jpg"] = number
        with pytest.raises(StorageError):
            fetcher.fetch(ImageRef("a.jpg"))


def test_a_source_that_is_empty_or_gone_has_gone_away_and_fails_no_image(photos: Path) -> None:
    fetcher = Fetcher(str(photos), LIMIT)
    fetcher.fetch(ImageRef("a.jpg"))
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (photos / name).unlink()
    for _ in range(2):
        with pytest.raises(StorageError, match="no such file"):
            fetcher.fetch(ImageRef("b.jpg"))
        if photos.exists():
            photos.rmdir()
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"data")
    with pytest.raises(ImageError) as caught:
        fetcher.fetch(ImageRef("b.jpg"))
    assert caught.value.code == "missing", "the source is back, and the image isn't"


class Refusing(BaseHTTPRequestHandler):
    """A host that has one file and refuses all others; that one too once it is `closed`."""

    closed = False

    def log_message(self, format: str, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        known = self.path == "/photos/a.jpg" and not self.closed
        data = b"data"[: 1 if self.headers["Range"] else 4]
        self.send_response(403 if not known else 206 if self.headers["Range"] else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Range", "bytes 0-0/4")
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET


@pytest.fixture
def host() -> Iterator[tuple[str, type[Refusing]]]:
    handler = type("Handler", (Refusing,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/photos", handler
    server.shutdown()
    server.server_close()


def test_a_host_of_the_web_that_refuses_fails_its_images_alone(host: tuple[str, type[Refusing]]) -> None:
    url, handler = host
    fetcher = Fetcher("/nowhere", LIMIT)
    with pytest.raises(ImageError) as caught:
        fetcher.fetch(ImageRef(f"{url}/b.jpg"))
    assert caught.value.code == "unreadable"
    assert fetcher.fetch(ImageRef(f"{url}/a.jpg")) == b"data"
    with pytest.raises(ImageError):
        fetcher.fetch(ImageRef(f"{url}/b.jpg"))
    handler.closed = True
    with pytest.raises(StorageError):  # it answered before
        fetcher.fetch(ImageRef(f"{url}/b.jpg"))


def test_a_bucket_that_refuses_is_the_runs_affair(
    host: tuple[str, type[Refusing]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = host
    settings = {"ENDPOINT_URL": url.removesuffix("/photos"), "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    settings |= {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    fetcher = Fetcher("s3://photos", LIMIT)
    with pytest.raises(StorageError):
        fetcher.fetch(ImageRef("b.jpg"))
    assert fetcher.fetch(ImageRef("a.jpg")) == b"data"
    with pytest.raises(ImageError) as caught:
        fetcher.fetch(ImageRef("b.jpg"))
    assert caught.value.code == "unreadable", "others can be read"


@pytest.mark.parametrize("uri", ["file:///no/such/folder/x.jpg", "file://host/x.jpg", "file:///a%00b/x.jpg", "http://"])
def test_an_odd_uri_in_a_table_fails_alone(tmp_path: Path, uri: str) -> None:
    assert refused(tmp_path, ImageRef(uri)).code in ("missing", "unreadable")
