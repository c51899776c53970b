"""Stores that fail: full, read-only, without hard links, slow, refusing, answering with errors or not at all."""

from __future__ import annotations

import errno
import http.client
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline import committer
from pipeline.export import export
from pipeline.status import read_status
from workers.errors import PixgradError
from workers.storage import LocalStore, StorageError, open_store

SEED = 7


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system in memory with these options, or mount it anew."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted: list[str] = []

    def mount(options: str) -> Path:
        remount = ["-o", f"remount,{options}"] if mounted else ["-t", "tmpfs", "-o", options, "tmpfs"]
        done = subprocess.run(["mount", *remount, str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a file system can't be mounted here: {done.stderr.strip()}")
        mounted.append(options)
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=False)


def slow(count: int) -> list[str]:
    return [f"{i:03d}-slow@compute-{i}" for i in range(count)]


@pytest.mark.parametrize("trouble", ["no space left", "read-only"])
def test_a_disk_that_fails_for_good_stops_the_run_which_goes_on_later(
    here: Any, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(committer, "STORE_PATIENCE", 2.0)
    disk = small_disk("size=120k" if trouble == "no space left" else "size=20m")
    source = here.images("source", slow(40))
    job = here.job(source, disk / "run")
    if trouble == "read-only":
        threading.Timer(4.0, small_disk, ["ro"]).start()
    with pytest.raises(PixgradError, match="Can't write") as caught:
        here.run(job)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
    if trouble == "no space left":
        assert "No space left on device" in str(caught.value) and "free some space" in str(caught.value)
    small_disk("size=20m,rw")
    here.silence(disk / "run")  # a driver on a disk that can't be written can't give its claim up
    committed = len(list((disk / "run").glob("manifest/*/*.parquet")))
    assert here.run(job).exit_code == 0
    assert committed < 10, "it failed before the end"
    here.check(f"disk: {trouble}", 1, source, job.store)


def test_a_disk_without_hard_links_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    store = LocalStore(tmp_path)
    made: list[bool] = []
    writers = [
        threading.Thread(target=lambda n=n: made.append(store.create("part", bytes([n]) * 9))) for n in range(16)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sum(made) == 1 and len(set(store.read("part"))) == 1
    with pytest.raises(StorageError, match="exists already"), store.writer("part") as file:
        file.write(b"other")
    assert [entry.name for entry in store.list()] == ["part"] and len(list(tmp_path.iterdir())) == 1


def test_a_store_that_writes_over_what_it_was_told_to_create_is_refused(tmp_path: Path) -> None:
    from pipeline.epoch import take_over

    class Careless(LocalStore):
        def create(self, name: str, data: bytes) -> bool:
            self.replace(name, data)
            return True

    with pytest.raises(StorageError, match="writes over files that exist"):
        take_over(Careless(tmp_path))


class Proxy:
    """Stands before an S3 server and makes it fail, by shares of the requests."""

    def __init__(self, upstream: str):
        self.upstream = urlsplit(upstream)
        self.errors = self.lost_answers = self.cut_bodies = self.latency = 0.0
        self.refusing = self.down = False
        self.faults = 0
        self.pick = random.Random(SEED)
        handler = type("Handler", (_Handler,), {"proxy": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, format: str, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        proxy = self.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(proxy.pick.uniform(0, 2 * proxy.latency))
        draw = proxy.pick.random()
        if proxy.down or proxy.refusing or draw < proxy.errors:
            proxy.faults += 1
            self._answer(403 if proxy.refusing else 503, {}, b"<Error><Code>ExpiredToken</Code></Error>")
            return
        upstream = http.client.HTTPConnection(proxy.upstream.hostname or "", proxy.upstream.port or 80, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        upstream.request(self.command, self.path, body, headers)
        response = upstream.getresponse()
        data = response.read()
        answered = dict(response.getheaders())
        if draw > 1 - proxy.lost_answers:
            proxy.faults += 1
            self.close_connection = True
            self.connection.close()
        elif draw > 1 - proxy.lost_answers - proxy.cut_bodies and len(data) > 1 and self.command == "GET":
            proxy.faults += 1
            self.close_connection = True
            self._answer(response.status, answered, data, sent=len(data) // 2)
            self.connection.close()
        else:
            self._answer(response.status, answered, data)

    def _answer(self, status: int, headers: dict[str, str], data: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sent])

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve


@pytest.fixture
def proxy(make_bucket: Callable[[], str]) -> Iterator[Proxy]:
    proxy = Proxy(os.environ["AWS_ENDPOINT_URL"])
    yield proxy
    proxy.server.shutdown()


@pytest.fixture
def bucket(make_bucket: Callable[[], str]) -> str:
    return make_bucket()


def upload(source: Path, bucket: str) -> str:
    store = open_store(f"{bucket}/photos")
    for file in source.iterdir():
        assert store.create(file.name.replace("@", "%40"), file.read_bytes())
    return f"{bucket}/photos/"


@pytest.mark.timeout(600)
def test_a_bucket_that_fails_now_and_then_costs_nothing(here: Any, bucket: str, proxy: Proxy) -> None:
    source = here.images("source", [f"{i:03d}-{i}" for i in range(24)])
    uri = upload(source, bucket)
    proxy.errors, proxy.lost_answers, proxy.cut_bodies, proxy.latency = 0.08, 0.06, 0.06, 0.01
    code, _, err = here.command(uri, f"{bucket}/run", AWS_ENDPOINT_URL=proxy.url).run()
    assert code == 0, err
    assert proxy.faults > 5
    store = open_store(f"{bucket}/run")
    here.check("S3: 503, answers lost, bodies cut, latency", proxy.faults, source, store)
    assert read_status(store).state == "complete"
    assert [entry.name for entry in store.list("events")] == ["events/000000-000000.jsonl"]
    assert export(store, here.folder / "out", class_tree=False) == 24


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_bucket_that_fails_all_the_time(here: Any, bucket: str, proxy: Proxy) -> None:
    source = here.images("source", [f"{i:03d}-{i}" for i in range(400)])
    uri = upload(source, bucket)
    proxy.errors, proxy.lost_answers, proxy.cut_bodies, proxy.latency = 0.15, 0.12, 0.12, 0.005
    command = here.command(uri, f"{bucket}/run", AWS_ENDPOINT_URL=proxy.url)
    code, err = 4, ""
    for _ in range(6):
        if code == 4:
            code, _, err = command.run(timeout=600)
    assert code == 0, err
    here.check("S3: 503, answers lost, bodies cut, often", proxy.faults, source, open_store(f"{bucket}/run"))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("trouble", ["credentials expire", "the bucket is gone for good"])
def test_a_bucket_that_fails_for_good(here: Any, bucket: str, proxy: Proxy, trouble: str) -> None:
    source = here.images("source", slow(60))
    uri = upload(source, bucket)
    command = here.command(uri, f"{bucket}/run", AWS_ENDPOINT_URL=proxy.url)
    process = command.start()
    store = open_store(f"{bucket}/run")
    while sum(1 for _ in store.list("manifest")) < 2:
        assert process.poll() is None
        time.sleep(0.2)
    proxy.refusing = trouble == "credentials expire"
    proxy.down = not proxy.refusing
    _, err = process.communicate(timeout=600)
    assert process.returncode == 4 and "Traceback" not in err, err
    assert "s3://" in err and "To go on" in err, err
    proxy.refusing = proxy.down = False
    code, _, err = command.run()
    assert code == 0, err
    found = here.check(f"S3: {trouble}", 1, source, store)
    assert not found.codes, "an outage is no image's fault"


def test_a_source_that_goes_away_fails_no_image(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if its mount had dropped: the folder is there, and empty."""
    monkeypatch.setattr(committer, "STORE_PATIENCE", 1.0)
    source = here.images("source", slow(60))
    job = here.job(source, here.folder / "run")
    away = here.folder / "away"

    def unmount() -> None:
        while not list((here.folder / "run").glob("manifest/*/*.parquet")):
            time.sleep(0.05)
        source.rename(away)
        source.mkdir()

    threading.Thread(target=unmount, daemon=True).start()
    with pytest.raises(PixgradError, match="there is no such file") as caught:
        here.run(job)
    assert caught.value.exit_code == 4
    source.rmdir()
    away.rename(source)
    assert here.run(job).exit_code == 0
    here.check("source's mount dropped", 1, source, job.store)
