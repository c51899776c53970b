"""Bad input in whole runs: each image listed ends in one row, ok or failed, and nothing is written outside the run."""

from __future__ import annotations

import csv
import io
import os
import socket
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from jobs.spec import dump_job, load_job
from pipeline.config import SourceParams
from pipeline.export import export
from pipeline.plan import RESERVED
from pipeline.prepare import PreparedJob, prepare
from pipeline.run import run
from pipeline.source import open_source
from pipeline.verify import verify
from workers.records import output_key, reserved_columns
from workers.storage import Store, encode, open_store

JOB = """
source: {source}
output: unused
model: {{name: efficientnet_lite0}}
images: {images}
units: {{size: 32}}
max_failed: 1
deepdream:
  stages: [{{layers: [blocks.0], octaves: 1, iterations: 1, jitter: 0}}]
"""

GOOD = ("astronaut", "chelsea", "coffee", "rocket")

NAMES = (
    "new\nline.jpg",
    "quotes\"'`.jpg",
    "a..b.jpg",
    "#1.jpg",
    "what?.jpg",
    "100%.jpg",
    "%2e%2e%2fescape.jpg",
    "%00.jpg",
    "$(touch escaped).jpg",
    "; touch escaped;.jpg",
    "*.jpg",
    "[a]{b,c}.jpg",
    "~.jpg",
    "-rf.jpg",
    " spaces  around .jpg",
    "C:\\up\\..\\back.jpg",
    "tab\tand bell\a.jpg",
    "\x1b[31mred.jpg",
    "\u202egpj.exe.jpg",
    "no width\u200b.jpg",
    "line\u2028separator.jpg",
    "caf\u00e9.jpg",
    "cafe\u0301.jpg",
    "😀👩\u200d👩\u200d👧.jpg",
    "名" * 83 + ".jpg",
    "x" * 251 + ".jpg",
    os.fsdecode(b"not utf-8 \xff\xfe.jpg"),
    "CON.jpg",
    "UPPER.JPG",
    "two.jpg.png",
    "=1+1.jpg",
    "<img src=x>.jpg",
    "{{7*7}}.jpg",
    "a&b=c;d.jpg",
)


@dataclass
class Collection:
    """A source of awkward images, and what should become of each: "ok", or the codes of which it should have one.

    An image is known by its URI and member, those of a table by their `number`.
    """

    source: Path
    expected: dict[Any, str] = field(default_factory=dict)

    def expect(self, outcome: str, uri: str, member: str | None = None) -> None:
        """An image of this name is listed."""
        assert (uri, member) not in self.expected
        self.expected[uri, member] = outcome

    def wrong(self, rows: list[dict[str, Any]]) -> dict[Any, tuple[str, str]]:
        """What ended in another way than it should: what was expected, and what came of it."""
        found = {row.get("number", (row["uri"], row["member"])): row["error_code"] or "ok" for row in rows}
        assert len(found) == len(rows)
        pairs = {each: (self.expected.get(each, "unlisted"), found.get(each, "lost")) for each in self.expected | found}
        return {each: (expected, code) for each, (expected, code) in pairs.items() if code not in expected.split()}


@dataclass
class Bench:
    """Where the runs are made, and the images that go into them."""

    folder: Path
    prepared: PreparedJob
    awkward: dict[str, tuple[bytes, str]]
    photo: bytes
    good: dict[str, bytes]

    def run(self, source: Path, name: str) -> tuple[Store, list[dict[str, Any]]]:
        """Run the job over another source; the run's store and its rows."""
        params, store = SourceParams(uri=str(source)), open_store(str(self.folder / name))
        config = self.prepared.config.model_copy(update={"source": params, "output": store.url})
        opened = open_source(params, reserved=reserved_columns("deepdream") | RESERVED, exclude=store.url)
        job = replace(self.prepared, config=config, source=opened, store=store)
        outcome = run(job, job_yaml=dump_job(config), console=Console(file=io.StringIO()))
        assert outcome.exit_code == 0
        return store, pq.read_table(self.folder / name / "manifest.parquet").to_pylist()


@pytest.fixture
def bench(
    tmp_path: Path,
    ray_cluster: None,
    load_helper: Callable[[str], SimpleNamespace],
    photographs: Mapping[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    module = load_helper("awkward")
    good = {f"{name}.jpg": photographs[name].read_bytes() for name in GOOD}
    write(tmp_path / "good", good)
    monkeypatch.chdir(write(tmp_path / "here", {}))
    Path("job.yaml").write_text(JOB.format(source=tmp_path / "good", images=module.IMAGES))
    prepared = prepare(load_job("job.yaml"))
    return Bench(tmp_path, prepared, module.awkward_files(), module.encoded(module.PHOTO, "JPEG"), good)


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def a_folder(bench: Bench) -> Collection:
    """Files of every kind, names of every kind, and what a disk holds besides files."""
    made = Collection(bench.folder / "photos")
    write(made.source / "good", bench.good)
    write(made.source / "awkward", {name: data for name, (data, _) in bench.awkward.items()})
    write(made.source / "names", dict.fromkeys([*NAMES, ".hidden.jpg", "..hidden.jpg", "none", "a.txt"], bench.photo))
    outcomes = {f"good/{name}": "ok" for name in bench.good} | {f"names/{name}": "ok" for name in NAMES}
    outcomes |= {f"awkward/{name}": outcome for name, (_, outcome) in bench.awkward.items()}
    for name, outcome in outcomes.items():
        made.expect(outcome, encode(name))
    add_links_and_devices(made, bench.photo)
    add_twins(made, bench.photo)
    return made


def add_links_and_devices(made: Collection, photo: bytes) -> None:
    odd = made.source / "odd"
    write(odd / "folder.jpg", {"inside.jpg": photo})
    write(odd, {"locked.jpg": photo})
    (odd / "locked.jpg").chmod(0)
    write(made.source.parent / "elsewhere", {"linked.jpg": photo})
    links = {"to itself.jpg": "to itself.jpg", "dangling.jpg": "nowhere.jpg", "zeros.jpg": "/dev/zero", "up": ".."}
    for name, target in (links | {"link.jpg": "../../elsewhere/linked.jpg", "tree": "../../elsewhere"}).items():
        (odd / name).symlink_to(target)
    os.mkfifo(odd / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(odd / "socket.jpg"))  # whose whole path may be too long
    locked = "ok" if os.access(odd / "locked.jpg", os.R_OK) else "unreadable"
    outcomes = {"folder.jpg/inside.jpg": "ok", "link.jpg": "ok", "tree/linked.jpg": "ok", "locked.jpg": locked}
    for name, outcome in (outcomes | {"to itself.jpg": "unreadable", "dangling.jpg": "missing"}).items():
        made.expect(outcome, encode(f"odd/{name}"))


def add_twins(made: Collection, photo: bytes) -> None:
    """Names that would be the same, or in each other's way, as those of exported pictures."""
    for folder in ("a.png", "b.jpg.png"):
        write(made.source / "twins" / folder, {"inside.jpg": photo})
    taken = f"a-{output_key('twins/a.jpeg', None, '')[:8]}.jpg"  # what a.jpeg would be called, beside a.gif
    names = ("a.jpg", "a.jpeg", "a.gif", "b.jpg.jpg", taken)
    write(made.source / "twins", dict.fromkeys(names, photo))
    for name in (*names, "a.png/inside.jpg", "b.jpg.png/inside.jpg"):
        made.expect("ok", f"twins/{name}")


def tar(path: Path, members: Iterable[tuple[tarfile.TarInfo | str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for each, data in members:
            info = tarfile.TarInfo(each) if isinstance(each, str) else each
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def with_headers(name: str, **headers: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = headers
    return info


def some_tars(bench: Bench) -> Collection:
    """A third of the same in tars, with members that would land elsewhere if anyone extracted them."""
    folder = bench.folder / "tars"
    made = Collection(folder / "*.tar")
    names = [*NAMES, "x" * 300 + ".jpg", "deep/" * 60 + "x.jpg", "../../escape.jpg", f"{bench.folder}/absolute.jpg"]
    files = {name: (data, "ok") for name, data in bench.good.items()} | dict.fromkeys(names, (bench.photo, "ok"))
    files |= {f"awkward/{name}": file for name, file in [*bench.awkward.items()][::3]}
    tar(folder / "0 of 1%.tar", [(name, data) for name, (data, _) in files.items()])
    for name, (_, outcome) in files.items():
        made.expect(outcome, "0%20of%201%25.tar", encode(name))
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    odd: list[tuple[tarfile.TarInfo | str, bytes]] = [(special(f"{kind}.jpg", kind), b"") for kind in kinds]
    odd += [("a.jpg", bench.photo), ("a.jpg", bench.good["chelsea.jpg"]), ("a.jpg", b""), (".hidden.jpg", bench.photo)]
    odd += [
        (with_headers("b.jpg", comment="x" * 900_000), bench.photo),
        (with_headers("c.jpg", mtime="x"), bench.photo),
    ]
    tar(folder / "1.tar", odd)
    for outcome, member in (("ok", "a.jpg"), ("ok", "a.jpg#2"), ("empty", "a.jpg#3"), ("ok", "b.jpg"), ("ok", "c.jpg")):
        made.expect(outcome, "1.tar", member)
    return made


HOSTILE_URIS = {
    "../" * 40 + "etc/passwd": "not_an_image",
    "/etc/passwd": "not_an_image",
    "file:///etc/passwd": "not_an_image",
    "/dev/zero": "missing",
    "": "missing",
    ".": "missing",
    "../photos": "missing",
    "../photos/good/chelsea.jpg?x=1": "missing",
    "../photos/good/chelsea.jpg#x": "missing",
    "../photos/good/chelsea.jpg/x.jpg": "unreadable",
    "nul%00.jpg": "unreadable",
    "javascript:alert(1)": "missing",
    "C:\\x.jpg": "missing",
    "ftp://127.0.0.1/x.jpg": "unreadable",
    "s3://": "unreadable",
    "s3://a bucket/x.jpg": "unreadable",
    "x" * 5000 + ".jpg": "unreadable",
    "../photos/good/../good/%63helsea.jpg": "ok",
}


def a_table(bench: Bench, photos: Collection) -> Collection:
    """A table of every fifth of the folder's files, and of URIs that lead elsewhere."""
    named = {f"../photos/{uri}": outcome for (uri, _), outcome in [*photos.expected.items()][::5]} | HOSTILE_URIS
    made = Collection(write(bench.folder / "tables", {}) / "all.csv", dict(enumerate(named.values())))
    with made.source.open("w", newline="") as file:
        rows = ([uri, number, '=1+1\n"quoted"'] for number, uri in enumerate(named))
        csv.writer(file).writerows([["uri", "number", "=note"], *rows])
    return made


def entries_of(folder: Path, *besides: Path) -> dict[bytes, tuple[int, int]]:
    """The size of everything below a folder and when it changed, but for what lies in some of its folders."""
    found = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        folders[:] = [name for name in folders if Path(os.fsdecode(place), os.fsdecode(name)) not in besides]
        for name in (*folders, *files):
            path = place + b"/" + name
            found[path] = (os.lstat(path).st_size, os.lstat(path).st_mtime_ns)
    return found


def test_each_image_ends_in_one_row_and_nothing_lands_outside(bench: Bench) -> None:
    photos = a_folder(bench)
    collections = {"a folder": photos, "tars": some_tars(bench), "a table": a_table(bench, photos)}
    runs = {name: bench.folder / f"run of {name}" for name in collections}
    exported = bench.folder / "exported"
    _, clean = bench.run(bench.folder / "good", "clean run")
    pictures = {row["source_sha256"]: {row["output_sha256"]} for row in clean if row["status"] == "ok"}
    assert len(pictures) == len(GOOD)
    before = entries_of(bench.folder)
    for name, collection in collections.items():
        store, rows = bench.run(collection.source, runs[name].name)
        assert collection.wrong(rows) == {}
        assert all(is_a_sentence(row["error"]) for row in rows if row["status"] == "failed")
        assert verify(store).faults == []
        made = [row for row in rows if row["status"] == "ok"]
        for class_tree in (False, True):
            destination = exported / f"{name} {class_tree}"
            assert export(store, destination, class_tree=class_tree) == len(made)
            assert sum(path.is_file() for path in destination.rglob("*")) == len(made)
        for row in made:
            pictures.setdefault(row["source_sha256"], set()).add(row["output_sha256"])
    assert entries_of(bench.folder, exported, *runs.values()) == before
    assert {source for source, made in pictures.items() if len(made) > 1} == set()


def is_a_sentence(text: str) -> bool:
    return len(text) > 20 and text.isprintable()
