from __future__ import annotations

import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.storage import (
    LocalStore,
    MissingError,
    ObjectStore,
    StorageError,
    Store,
    _reason,
    encode,
    is_remote,
    open_store,
    read_bytes,
    split_uri,
    walk,
)

ODD_NAMES = [
    "a b.jpg",
    "a%20b.jpg",
    "100%.jpg",
    "a#b?c*.jpg",
    "[x]{y}~^`.jpg",
    "quote\"s' .jpg",
    "back\\slash.jpg",
    "ünïcødé 写真.jpg",
    "x" * 251 + ".jpg",
    "-rf",
    "a=b&c+d;e.jpg",
]
DISK_NAMES = ["new\nline.jpg", os.fsdecode(b"not-utf8-\xff\xfe.jpg"), "tab\tcr\r.jpg", "\x01.jpg"]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path)
    return ObjectStore(request.getfixturevalue("make_bucket")() + "/some/prefix")


def names(store: Store, prefix: str = "", after: str | None = None) -> list[str]:
    return [entry.name for entry in store.list(prefix, after)]


class TestCreate:
    def test_the_first_wins_and_stays(self, store: Store) -> None:
        assert store.create("parts/0.parquet", b"first")
        assert not store.create("parts/0.parquet", b"second")
        assert store.read("parts/0.parquet") == b"first"
        assert [*store.list()] == [("parts/0.parquet", 5)]

    def test_a_race_of_threads_has_one_winner(self, store: Store) -> None:
        with ThreadPoolExecutor(12) as pool:
            for race in range(5):
                start = threading.Barrier(12)

                def run(racer: int, name: str = f"part-{race}", start: threading.Barrier = start) -> bool:
                    start.wait()
                    return store.create(name, b"%d" % racer * 1000)

                won = list(pool.map(run, range(12)))
                assert won.count(True) == 1
                assert store.read(f"part-{race}") == b"%d" % won.index(True) * 1000

    def test_a_race_of_processes_has_one_winner(self, store: Store) -> None:
        context = multiprocessing.get_context("spawn")
        start, results = context.Barrier(3), context.Queue()
        racers = [context.Process(target=race, args=(store.url, i, start, results)) for i in range(3)]
        for racer in racers:
            racer.start()
        won = [results.get(timeout=60) for _ in racers]
        for racer in racers:
            racer.join()
        assert sorted(name for winner in won for name in winner) == sorted(f"part-{i}" for i in range(8))


def race(url: str, racer: int, start: Any, results: Any) -> None:
    store = open_store(url)
    won = []
    for i in range(8):
        start.wait()
        if store.create(f"part-{i}", b"%d" % racer):
            won.append(f"part-{i}")
    results.put(won)


class TestCheckCreate:
    """What a run asks of its store before it trusts it."""

    def test_a_store_that_keeps_what_it_has_is_accepted(self, store: Store) -> None:
        store.create("drivers/0.json", b"mine")
        store.check_create("drivers/0.json")
        assert store.read("drivers/0.json") == b"mine"

    @pytest.mark.parametrize("place", ["local", "s3"])
    def test_one_that_writes_over_it_is_refused(
        self, place: str, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        if place == "local":

            class Careless(LocalStore):
                def create(self, name: str, data: bytes) -> bool:
                    self.replace(name, data)
                    return True

            careless: Store = Careless(tmp_path)
        else:

            class Unconditional(ObjectStore):
                def create(self, name: str, data: bytes) -> bool:
                    self.replace(name, data)  # a server that passes over the condition
                    return True

            careless = Unconditional(request.getfixturevalue("make_bucket")())
        careless.create("drivers/0.json", b"mine")
        with pytest.raises(StorageError, match=r"writes over files that exist .* use a store with conditional writes"):
            careless.check_create("drivers/0.json")


class TestWriter:
    def test_the_file_is_there_when_the_block_ends(self, store: Store) -> None:
        with store.writer("shards/0.tar") as file:
            file.write(b"abc")
            assert not store.exists("shards/0.tar")
            assert names(store) == []
        assert store.read("shards/0.tar") == b"abc"

    def test_nothing_is_left_if_the_block_raises(self, store: Store) -> None:
        with pytest.raises(KeyError), store.writer("shards/0.tar") as file:
            file.write(b"abc")
            raise KeyError
        assert names(store) == []
        if isinstance(store, LocalStore):
            assert list((store.root / "shards").iterdir()) == []

    @pytest.mark.parametrize("size", [3, 12_000_000])
    def test_never_writes_twice(self, store: Store, size: int) -> None:
        with store.writer("0.tar") as file:
            file.write(b"a" * size)
        with pytest.raises(StorageError, match=r"0\.tar exists already"), store.writer("0.tar") as file:
            file.write(b"b" * size)
        assert store.read("0.tar") == b"a" * size

    def test_replaces_where_told_to(self, store: Store) -> None:
        store.create("manifest.parquet", b"old and longer")
        with store.writer("manifest.parquet", replace=True) as file:
            file.write(b"new")
        assert store.read("manifest.parquet") == b"new"

    def test_a_killed_writer_leaves_nothing_that_counts(self, tmp_path: Path) -> None:
        script = (
            "import os, signal, sys\n"
            "from workers.storage import LocalStore\n"
            "with LocalStore(sys.argv[1]).writer('0.tar') as file:\n"
            "    file.write(b'half')\n"
            "    file.flush()\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        killed = subprocess.run(
            [sys.executable, "-c", script, tmp_path], env=os.environ | {"PYTHONPATH": str(Path.cwd())}
        )
        assert killed.returncode == -signal.SIGKILL
        assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"half"]
        store = LocalStore(tmp_path)
        assert names(store) == [] and not store.exists("0.tar")
        assert store.create("0.tar", b"whole")
        assert names(store) == ["0.tar"]

    @pytest.mark.parametrize("write", ["create", "replace", "writer"])
    def test_a_disk_that_takes_no_more_is_a_sentence_and_nothing_is_left(self, tmp_path: Path, write: str) -> None:
        store, data = LocalStore(tmp_path), bytes(3 << 20)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with pytest.raises(StorageError, match=r"^Can't write .*/0\.tar: File too large\.$"):
                if write == "writer":
                    with store.writer("0.tar") as file:
                        file.write(data)
                else:
                    getattr(store, write)("0.tar", data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(tmp_path.iterdir()) == []


def test_replace_is_atomic_for_readers(store: Store) -> None:
    store.replace("status.json", b"0" * 200_000)
    seen: list[bytes] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(store.read("status.json"))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(12):
        store.replace("status.json", b"%d" % (i % 10) * 200_000)
    done.set()
    reader.join()
    assert seen and all(len(data) == 200_000 and len(set(data)) == 1 for data in seen)


def test_delete_removes_and_forgives(store: Store) -> None:
    store.create("a", b"")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")


class TestRead:
    @pytest.mark.parametrize("size", [0, 1, 1000])
    def test_ranges_are_slices(self, store: Store, size: int) -> None:
        data = bytes(i % 251 for i in range(size))
        store.create("data", data)
        assert store.read("data") == data and store.size("data") == size
        for start in (0, 1, size // 2, size, size + 5):
            assert store.read("data", start) == data[start:]
            for length in (0, 1, size // 2, size, size + 5):
                assert store.read("data", start, length) == data[start : start + length]

    def test_open_reads_as_a_file_does(self, store: Store) -> None:
        data = os.urandom(300_000)
        store.create("data", data)
        expected = io.BytesIO(data)
        with store.open("data") as file:
            for offset, whence, length in [(10, 0, 5), (290_000, 0, 50_000), (-7, 2, 3), (-2, 1, 9), (5, 0, 200_000)]:
                assert file.seek(offset, whence) == expected.seek(offset, whence)
                assert file.read(length) == expected.read(length)
                assert file.tell() == expected.tell()
            file.seek(0)
            assert file.read() == data

    def test_open_fetches_no_more_than_it_needs(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        if isinstance(store, LocalStore):
            pytest.skip("the disk's own files")
        store.create("data", bytes(4_000_000))
        fetched: list[int] = []
        read = store.read
        monkeypatch.setattr(store, "read", lambda *range: fetched.append(range[2]) or read(*range))
        with store.open("data") as file:
            file.seek(3_000_000)
            file.read(512)
        assert 0 < sum(fetched) < 300_000

    @pytest.mark.parametrize("method", ["read", "size", "open"])
    def test_what_is_not_there_is_missing(self, store: Store, method: str) -> None:
        with pytest.raises(
            MissingError, match=r"^Can't read .*no/such\.jpg: there is no such (file or folder|object)\.$"
        ):
            getattr(store, method)("no/such.jpg")
        assert not store.exists("no/such.jpg")

    def test_a_folder_is_not_a_file(self, store: Store) -> None:
        store.create("folder/file", b"")
        assert not store.exists("folder")
        with pytest.raises(StorageError):
            store.read("folder")

    def test_what_can_be_no_name_is_a_sentence(self, store: Store) -> None:
        for name in (
            ("a%00b.jpg",) if isinstance(store, LocalStore) else ("a%00b.jpg", "a/../b.jpg", "a//b", "a%0Ab", "")
        ):
            for method in (store.read, store.size, store.open):
                with pytest.raises(StorageError, match="can't be"):
                    method(name)

    def test_a_pipe_is_not_read(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.jpg")
        store = LocalStore(tmp_path)
        with pytest.raises(MissingError, match="not a file"):
            store.size("pipe.jpg")
        assert names(store) == []


class TestErrors:
    def test_a_machine_without_credentials_is_told_where_to_put_them(self) -> None:
        error = OSError("Generic S3 error: error sending request for url (http://169.254.169.254/latest/api/token)")
        assert _reason(error).startswith("no credentials were found: set them in the environment (for S3 AWS_ACCESS_")
        assert _reason(OSError("Generic S3 error: too slow")) == "Generic S3 error: too slow"

    def test_local_reasons_are_the_systems_own(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        store = LocalStore(tmp_path)
        with pytest.raises(StorageError, match=r"^Can't write .*/file/part: Not a directory\.$"):
            store.create("file/part", b"")

    def test_a_bucket_that_is_not_there_is_one_line(self, make_bucket: Callable[[], str]) -> None:
        store = ObjectStore(f"{make_bucket()}-not")
        with pytest.raises(StorageError, match=r"^Can't list s3://.*404 Not Found\.$") as caught:
            list(store.list())
        assert "\n" not in str(caught.value) and "<" not in str(caught.value)
        with pytest.raises(MissingError):
            store.create("a", b"")

    @pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://b ad/x"])
    def test_a_url_that_is_none_is_a_sentence(self, url: str) -> None:
        with pytest.raises(StorageError, match="s3:"):
            open_store(url)


class TestList:
    TREE = ("a.jpg", "b/c.jpg", "b/d/e.jpg", "b.jpg", "b-c.jpg", "z/ü.jpg", "z/%25.jpg")

    def test_order_is_fixed_and_goes_on_behind_any_entry(self, store: Store) -> None:
        for name in self.TREE:
            store.create(encode(name), name.encode())
        whole = list(store.list())
        assert sorted(e.name for e in whole) == sorted(map(encode, self.TREE))
        assert all(entry.size == len(store.read(entry.name)) for entry in whole)
        for i, entry in enumerate(whole):
            assert list(store.list(after=entry.name)) == whole[i + 1 :]

    def test_a_prefix_is_a_folder(self, store: Store) -> None:
        for name in self.TREE:
            store.create(encode(name), b"")
        assert sorted(names(store, "b")) == sorted(names(store, "b/")) == ["b/c.jpg", "b/d/e.jpg"]
        assert names(store, "b", after="b/c.jpg") == ["b/d/e.jpg"]
        assert names(store, "nothing") == []

    def test_hidden_files_are_left_out(self, store: Store) -> None:
        for name in (".staged", "a/.hidden/b", "a/.c", "a/d"):
            store.create(name, b"")
        assert names(store) == ["a/d"]

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_are_names(self, store: Store, name: str) -> None:
        store.create(encode(f"folder {name[:9]}/{name}"), b"data")
        [entry] = store.list()
        assert entry == (encode(f"folder {name[:9]}/{name}"), 4)
        assert entry.name.isascii() and store.read(entry.name) == b"data"
        assert names(store, after=entry.name) == []

    @pytest.mark.parametrize("name", DISK_NAMES)
    def test_a_disk_holds_odder_ones(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"data")
        [entry] = LocalStore(tmp_path).list()
        assert entry.name.isascii() and LocalStore(tmp_path).read(entry.name) == b"data"

    def test_links_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real/a.jpg").write_bytes(b"1234")
        (tmp_path / "real/up").symlink_to(tmp_path)
        (tmp_path / "linked").symlink_to(tmp_path / "real")
        (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
        (tmp_path / "self").symlink_to(tmp_path / "self")
        store = LocalStore(tmp_path)
        assert [*store.list()] == [("broken.jpg", 0), ("linked/a.jpg", 4), ("real/a.jpg", 4), ("self", 0)]
        with pytest.raises(MissingError):
            store.read("broken.jpg")

    @settings(max_examples=25, deadline=None)
    @given(st.sets(st.lists(st.sampled_from(["a", "b", "ä", "a b", "b.c", "%"]), min_size=1, max_size=4).map(tuple)))
    def test_any_tree_goes_on_behind_any_entry(self, paths: set[tuple[str, ...]]) -> None:
        with TemporaryDirectory() as folder:
            for path in paths:
                parent = Path(folder, *(f"{part}.d" for part in path[:-1]))
                parent.mkdir(parents=True, exist_ok=True)
                (parent / path[-1]).touch()
            whole = list(walk(Path(folder)))
            assert len(whole) == len(paths)
            for i, entry in enumerate(whole):
                assert list(walk(Path(folder), after=entry.name)) == whole[i + 1 :]
            for entry in whole[::2]:
                LocalStore(folder).delete(entry.name)
                assert entry not in list(walk(Path(folder)))
                assert set(walk(Path(folder), after=entry.name)) <= set(whole)


class TestPlaces:
    def test_remote_or_local(self) -> None:
        assert is_remote("s3://bucket/a") and is_remote("gs://b") and is_remote("https://host/x")
        assert not is_remote("photos") and not is_remote("/a/b") and not is_remote("file:///a")

    @pytest.mark.parametrize(
        ("uri", "place"),
        [
            ("s3://bucket/a/b.jpg", ("s3://bucket", "a/b.jpg")),
            ("https://host/a/b.pth", ("https://host/a", "b.pth")),
            ("/data/my photos/100%.jpg", ("/data/my photos", "100%25.jpg")),
            ("file:///data/my%20photos/100%25.jpg", ("/data/my photos", "100%25.jpg")),
            ("a.jpg", (".", "a.jpg")),
        ],
    )
    def test_a_uri_is_a_store_and_a_name(self, uri: str, place: tuple[str, str]) -> None:
        assert split_uri(uri) == place

    def test_reads_by_path_and_by_uri(self, tmp_path: Path, make_bucket: Callable[[], str]) -> None:
        (tmp_path / "a b.jpg").write_bytes(b"data")
        assert read_bytes(str(tmp_path / "a b.jpg")) == b"data"
        assert read_bytes(f"file://{tmp_path}/a%20b.jpg") == b"data"
        bucket = make_bucket()
        open_store(bucket).create("x/a%20b.jpg", b"remote")
        assert read_bytes(f"{bucket}/x/a%20b.jpg") == b"remote"


def test_folders_are_made_by_many_at_once(tmp_path: Path) -> None:
    for attempt in range(20):
        store = LocalStore(tmp_path / str(attempt))
        gate = threading.Barrier(8)

        def create(number: int, store: LocalStore = store, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return store.create(f"a/b/c/{number}", b"x")

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(create, range(8)))
