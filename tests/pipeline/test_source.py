from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SourceParams
from pipeline.listing import Occurrences
from pipeline.source import Source, SourceError, open_source
from workers.fetch import Fetcher
from workers.records import ImageRef, output_key
from workers.storage import StorageError, encode, open_store

RESERVED = frozenset({"uri", "member", "label", "width", "key"})


def source(uri: Path | str, labels: str | None = None, exclude: Path | str | None = None) -> Source:
    params = SourceParams(uri=str(uri), labels=labels)
    return open_source(params, reserved=RESERVED, exclude=None if exclude is None else str(exclude))


def read(src: Source, ref: ImageRef) -> bytes:
    return Fetcher(src.root, 1 << 20).fetch(ref)


def identities(src: Source) -> list[tuple[str, str | None]]:
    return [(ref.uri, ref.member) for ref in src.images()]


def assert_goes_on_behind_any(src: Source) -> None:
    whole = list(src.images())
    for i, ref in enumerate(whole):
        assert list(src.images(after=ref)) == whole[i + 1 :]


def assert_refused(uri: Path | str, sentence: str, labels: str | None = None) -> None:
    with pytest.raises((SourceError, StorageError), match=sentence) as caught:
        list(source(uri, labels).images())
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def write(folder: Path, files: Mapping[str, bytes] | Sequence[str]) -> Path:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name] if isinstance(files, Mapping) else name.encode(errors="surrogateescape"))
    return folder


class TestFolder:
    def test_lists_images_at_any_depth_and_counts_the_rest(self, tmp_path: Path) -> None:
        write(tmp_path, ["a.jpg", "b/C.JPEG", "b/d/e.png", "b/d/f.webp", "x.TIF", "README", "b/notes.txt", "c.txt"])
        write(tmp_path, [".hidden.jpg", ".thumbs/t.jpg", "b/._a.jpg"])
        src = source(tmp_path)
        refs = list(src.images())
        assert [ref.uri for ref in refs] == ["a.jpg", "b/C.JPEG", "b/d/e.png", "b/d/f.webp", "x.TIF"]
        assert all(read(src, ref).decode() == ref.uri and ref.bytes == len(ref.uri) for ref in refs)
        assert all(ref.member is ref.offset is ref.label is None and ref.columns == {} for ref in refs)
        assert src.ignored == {".txt": 2, "": 1} and src.columns == []

    def test_labels_are_the_first_folder(self, tmp_path: Path) -> None:
        write(tmp_path, ["cats & dogs/a.jpg", "cats & dogs/deep/b.jpg", "c.jpg", "größe/d.jpg"])
        labels = {ref.uri: ref.label for ref in source(tmp_path, "folder").images()}
        assert list(labels.values()) == [None, "cats & dogs", "cats & dogs", "größe"]
        assert_refused(tmp_path, "labels: species needs tars or a table", "species")

    @pytest.mark.parametrize(
        "name",
        [
            "a b.jpg",
            "a%20b.jpg",
            "100%.jpg",
            "a#b?c*.jpg",
            "new\nline.jpg",
            "quote\"s'.jpg",
            "ü 写真.jpg",
            "x" * 251 + ".jpg",
            os.fsdecode(b"not-utf8-\xff.jpg"),
            "[glob]{a,b}.jpg",
        ],
    )
    def test_any_name_works(self, tmp_path: Path, name: str) -> None:
        folder = write(tmp_path / "odd [f]older %41", {name: b"data"})
        src = source(folder)
        [ref] = src.images()
        assert ref.uri == encode(name) and ref.uri.isascii() and read(src, ref) == b"data"
        assert output_key(ref.uri, ref.member, "")
        places = [f"file://{encode(str(folder / name))}", *([folder / name] if name.isprintable() else [])]
        for place in places:
            [alone] = source(place).images()
            assert alone.uri == ref.uri and read(source(place), alone) == b"data"

    def test_identity_is_the_same_wherever_it_is_mounted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "here", ["b/a b.jpg", "a.jpg", "c/d.jpg"])
        shutil.copytree(tmp_path / "here", tmp_path / "else where/there")
        (tmp_path / "link").symlink_to(tmp_path / "here")
        monkeypatch.chdir(tmp_path)
        expected = identities(source(tmp_path / "here"))
        for place in ("here", "./here/", "else where/there", "link", f"file://{tmp_path}/else%20where/there"):
            src = source(place)
            assert identities(src) == expected and Path(src.root).is_absolute()
            assert [read(src, ref) for ref in src.images()] == [b"a.jpg", b"b/a b.jpg", b"c/d.jpg"]

    def test_images_that_are_added_move_no_identity(self, tmp_path: Path) -> None:
        before = identities(source(write(tmp_path, ["b.jpg", "d/e.jpg"])))
        write(tmp_path, ["a.jpg", "d/a.jpg", "c.jpg"])
        assert set(before) < set(identities(source(tmp_path)))

    def test_the_runs_own_folder_is_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, ["a.jpg", "runs/my run/x.jpg", "runs/my run 2/y.jpg"])
        monkeypatch.chdir(tmp_path)
        for place in (tmp_path / "runs/my run", "runs/my run", "runs/my run/"):
            assert [ref.uri for ref in source(".", exclude=place).images()] == ["a.jpg", "runs/my%20run%202/y.jpg"]
        for place in (tmp_path, tmp_path.parent, "s3://bucket/run"):
            assert len(list(source(".", exclude=place).images())) == 3

    def test_nothing_there_is_a_sentence(self, tmp_path: Path) -> None:
        write(tmp_path, ["notes/a.txt", "notes/b.txt", "notes/c.heic", "x.py"])
        (tmp_path / "empty").mkdir()
        assert_refused(tmp_path / "no", "There is no folder or file .*/no\\.")
        assert_refused(tmp_path / "no/", "There is no folder or file")
        assert_refused(tmp_path / "empty", r"There are no images in .*/empty\. Images end in .*\.jpg, ")
        assert_refused(
            tmp_path / "notes", r"There are no images in .*/notes \(other files: 2 \.txt, 1 \.heic\)\. Images end in "
        )
        assert_refused(tmp_path / "x.py", "x.py is no source; give a folder, an image, or ")
        assert_refused(tmp_path / "no.jpg", "no.jpg: there is no such file")
        assert_refused(tmp_path / "*.jpg", "No file matches")

    def test_what_cannot_be_read_is_listed_all_the_same(self, tmp_path: Path) -> None:
        write(tmp_path, {"a.jpg": b""})
        (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
        assert [ref.uri for ref in source(tmp_path).images()] == ["a.jpg", "broken.jpg"]

    def test_is_streamed(self, tmp_path: Path) -> None:
        write(tmp_path, ["a/1.jpg", "b/2.jpg"])
        images = source(tmp_path).images()
        assert next(images).uri == "a/1.jpg"
        write(tmp_path, ["b/3.jpg"])
        assert [ref.uri for ref in images] == ["b/2.jpg", "b/3.jpg"]

    def test_globs_and_braces_of_images(self, tmp_path: Path) -> None:
        write(tmp_path, ["a/1.jpg", "a/2.png", "b/1.jpg", "b/c/3.jpg", ".h/1.jpg"])

        def uris(pattern: str) -> list[str]:
            return [ref.uri for ref in source(tmp_path / pattern).images()]

        assert uris("a/*.jpg") == ["1.jpg"]
        assert uris("*/1.jpg") == ["a/1.jpg", "b/1.jpg"]
        assert uris("**/*.jpg") == ["a/1.jpg", "b/1.jpg", "b/c/3.jpg"]
        assert uris("{b,a}/1.jpg") == ["b/1.jpg", "a/1.jpg"]
        assert_goes_on_behind_any(source(tmp_path / "**/*.jpg"))

    @settings(max_examples=30, deadline=None)
    @given(st.sets(st.lists(st.sampled_from(["a", "b", "ä", "a b", "%", "#2"]), min_size=1, max_size=3).map(tuple)))
    def test_goes_on_behind_any_image_of_any_tree(self, paths: set[tuple[str, ...]]) -> None:
        with TemporaryDirectory() as folder:
            names = ["/".join([*path[:-1], f"{path[-1]}.jpg"]) for path in paths]
            write(Path(folder), ["first.jpg", "not.txt", *names])
            src = source(folder)
            assert sorted(ref.uri for ref in src.images()) == sorted(map(encode, ["first.jpg", *names]))
            assert_goes_on_behind_any(src)


def tar_bytes(members: Sequence[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def shard(number: int, samples: int = 3) -> list[tuple[str, bytes]]:
    kinds = ("cls", "jpg", "json")
    return [(f"{number}{i}.{kind}", f"{kind} {number}{i}".encode()) for i in range(samples) for kind in kinds]


class TestTars:
    def test_members_are_ranges_of_the_tar(self, tmp_path: Path) -> None:
        write(tmp_path / "shards", {f"{i:03d}.tar": tar_bytes(shard(i)) for i in range(3)})
        src = source(tmp_path / "shards/*.tar")
        refs = list(src.images())
        assert [(ref.uri, ref.member) for ref in refs] == [
            (f"00{i}.tar", f"{i}{j}.jpg") for i in range(3) for j in range(3)
        ]
        assert [read(src, ref) for ref in refs] == [f"jpg {i}{j}".encode() for i in range(3) for j in range(3)]
        assert all(ref.bytes == 6 and ref.offset for ref in refs)
        assert src.ignored == {".cls": 9, ".json": 9}
        assert_goes_on_behind_any(src)

    @pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_names_of_every_format(self, tmp_path: Path, format: int) -> None:
        names = ["a b#%\n.jpg", "ü/写真.jpg", "d" * 80 + "/" + "e" * 90 + ".jpg", os.fsdecode(b"\xff.jpg"), "./f.jpg"]
        if format != tarfile.USTAR_FORMAT:
            names += ["long/" * 60 + "g.jpg"]
        write(tmp_path, {"x.tar": tar_bytes([(name, encode(name).encode()) for name in names], format)})
        src = source(tmp_path / "x.tar")
        refs = list(src.images())
        assert [ref.member for ref in refs] == [encode(name) for name in names]
        assert all(read(src, ref).decode() == ref.member and output_key(ref.uri, ref.member, "") for ref in refs)

    def test_one_tar_a_glob_and_braces(self, tmp_path: Path) -> None:
        tars = {f"{folder}/{i:02d}.tar": tar_bytes(shard(i, 1)) for folder in ("train", "val") for i in range(12)}
        write(tmp_path, tars)

        def uris(pattern: str) -> list[str]:
            return [ref.uri for ref in source(tmp_path / pattern).images()]

        assert uris("train/05.tar") == ["05.tar"]
        assert uris("train/0[13]*.tar") == ["01.tar", "03.tar"]
        assert uris("train/{08..11}.tar") == ["08.tar", "09.tar", "10.tar", "11.tar"]
        assert uris("{val,train}/{00,03}.tar") == ["val/00.tar", "val/03.tar", "train/00.tar", "train/03.tar"]
        assert uris("**/1?.tar") == ["train/10.tar", "train/11.tar", "val/10.tar", "val/11.tar"]
        assert_refused(tmp_path / "train/{10..12}.tar", r"train/12\.tar: there is no such file")
        assert_refused(tmp_path / "train/x*.tar", "No file matches")
        assert_refused(tmp_path / "no.tar", "no.tar: there is no such file")

    def test_labels(self, tmp_path: Path) -> None:
        sample = [
            ("s/1.cls", b" 7\n"),
            ("s/1.seg.png", b"i"),
            ("s/1.jpg", b"i"),
            ("s/1.json", b'{"kind": 3, "n": null}'),
        ]
        other = [("t/2.jpg", b"i"), ("t/3.jpg", b"i"), ("t/3.json", b"{no json"), ("4.jpg", b"i")]
        write(tmp_path, {"x.tar": tar_bytes(sample + other)})

        def labels(asked: str | None) -> list[str | None]:
            return [ref.label for ref in source(tmp_path / "x.tar", asked).images()]

        assert labels("cls") == ["7", "7", None, None, None]
        assert labels("kind") == ["3", "3", None, None, None]
        assert labels("n") == [None] * 5
        assert labels("folder") == ["s", "s", "t", "t", None]
        assert labels(None) == [None] * 5

    def test_the_same_name_twice_is_two_images(self, tmp_path: Path) -> None:
        members = [("a.jpg", b"one"), ("b.jpg", b"x"), ("a.jpg", b"two"), ("a.jpg", b"three"), ("a.jpg#2", b"no image")]
        write(tmp_path, {"x.tar": tar_bytes(members), "y.tar": tar_bytes([("a.jpg", b"y")])})
        src = source(tmp_path / "*.tar")
        refs = list(src.images())
        assert [ref.member for ref in refs] == ["a.jpg", "b.jpg", "a.jpg#2", "a.jpg#3", "a.jpg"]
        assert [read(src, ref) for ref in refs] == [b"one", b"x", b"two", b"three", b"y"]
        assert_goes_on_behind_any(src)

    def test_hostile_members_are_names_or_passed_over(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in ("/etc/abs.jpg", "../../up.jpg", "ok.jpg"):
                info = tarfile.TarInfo(name)
                info.size = 4
                tar.addfile(info, io.BytesIO(b"data"))
            kinds = (
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.CHRTYPE,
                tarfile.BLKTYPE,
                tarfile.FIFOTYPE,
                tarfile.DIRTYPE,
            )
            for i, kind in enumerate(kinds):
                info = tarfile.TarInfo(f"special{i}.jpg")
                info.type, info.linkname = kind, "/etc/passwd"
                tar.addfile(info)
            for name in ("._ok.jpg", "__MACOSX/._ok.jpg", ".git/a.jpg"):
                tar.addfile(tarfile.TarInfo(name))
        folder = write(tmp_path / "in", {"x.tar": buffer.getvalue()})
        src = source(folder / "x.tar")
        refs = list(src.images())
        assert [ref.member for ref in refs] == ["/etc/abs.jpg", "../../up.jpg", "ok.jpg"]
        assert [read(src, ref) for ref in refs] == [b"data"] * 3
        assert sorted(tmp_path.rglob("*")) == [folder, folder / "x.tar"]

    def test_a_torn_tar_is_refused_where_it_tears(self, tmp_path: Path) -> None:
        whole = tar_bytes([(f"{i}.jpg", bytes([i]) * 700) for i in range(4)])
        write(tmp_path, {"whole.tar": whole})
        ends = [ref.offset + 1024 for ref in source(tmp_path / "whole.tar").images() if ref.offset]
        for length in [0, 100, 512, 1000, *ends, ends[1] + 100, ends[1] + 512, ends[2] - 400, ends[3] + 100]:
            write(tmp_path, {"torn.tar": whole[:length]})
            images = source(tmp_path / "torn.tar").images()
            before = list(islice(images, sum(end <= length for end in ends)))
            assert [ref.member for ref in before] == [f"{i}.jpg" for i in range(len(before))]
            at = max([0, *(end for end in ends if end <= length)])
            with pytest.raises(
                SourceError, match=rf"torn\.tar is damaged, cut off or still being written at byte {at} "
            ):
                next(images)

    def test_a_damaged_header_loses_nothing_silently(self, tmp_path: Path) -> None:
        whole = tar_bytes([(f"{i}.jpg", b"data") for i in range(4)])
        write(tmp_path, {"x.tar": whole[:2060] + b"\xff" + whole[2061:]})
        assert_refused(tmp_path / "x.tar", "at byte 2048 ")
        write(tmp_path, {"x.tar": whole + whole})
        assert_refused(tmp_path / "x.tar", r"at byte 4096 \(no member's header and no end mark\)")
        write(tmp_path, {"x.tar": tar_bytes([])})
        assert_refused(tmp_path / "x.tar", r"There are no images in .*/x\.tar\. Images end in ")

    def test_headers_that_lie_about_sizes_are_refused(self, tmp_path: Path) -> None:
        for size in (10**12, 2**70, -512, -(10**9)):
            info = tarfile.TarInfo("a.jpg")
            info.size = size
            write(tmp_path, {"x.tar": info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)})
            assert_refused(tmp_path / "x.tar", "at byte 0 ")
            info.type = tarfile.XHDTYPE
            write(tmp_path, {"x.tar": info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)})
            assert_refused(tmp_path / "x.tar", "at byte 0 ")

    def test_compressed_tars_are_refused(self, tmp_path: Path) -> None:
        import gzip

        write(tmp_path, {"x.tar.gz": gzip.compress(tar_bytes(shard(0))), "y.tar": gzip.compress(tar_bytes(shard(0)))})
        assert_refused(tmp_path / "x.tar.gz", "is compressed; decompress it")
        assert_refused(tmp_path / "*.tar.gz", "is compressed; decompress it")
        assert_refused(tmp_path / "y.tar", "put a whole, uncompressed tar in its place")

    def test_sparse_members_are_refused(self, tmp_path: Path) -> None:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
        write(tmp_path, {"x.tar": info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)})
        assert_refused(tmp_path / "x.tar", "stored sparse")

    def test_a_tar_that_went_while_it_was_listed_is_a_sentence(self, tmp_path: Path) -> None:
        write(tmp_path, {"x.tar": tar_bytes(shard(0))})
        with pytest.raises(SourceError, match=r"stopped after 9\.jpg of x\.tar, which the source no longer has"):
            list(source(tmp_path / "x.tar").images(after=ImageRef("x.tar", "9.jpg")))
        with pytest.raises(SourceError, match="no longer has"):
            list(source(tmp_path / "x.tar").images(after=ImageRef("y.tar", "00.jpg")))

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_no_damage_is_a_traceback(self, data: st.DataObject) -> None:
        whole = bytearray(tar_bytes([*shard(0, 2), ("ü" * 70 + ".jpg", b"long"), ("b.jpg", b"data")]))
        for _ in range(data.draw(st.integers(1, 6))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        with TemporaryDirectory() as folder:
            write(Path(folder), {"x.tar": bytes(whole[: data.draw(st.integers(0, len(whole)))])})
            src = source(Path(folder, "x.tar"), "kind")
            try:
                for ref in src.images():
                    assert len(read(src, ref)) == ref.bytes
            except SourceError as error:
                assert "\n" not in str(error)


def parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path)
    return path


class TestTables:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        return write(tmp_path, ["photos/a b.jpg", "photos/100%.jpg", "photos/c.jpg", "out.jpg"])

    def test_each_format_gives_the_same_images(self, photos: Path) -> None:
        uris = [
            "photos/a b.jpg",
            "photos/a%20b.jpg",
            "photos/100%.jpg",
            str(photos / "out.jpg"),
            "../out.jpg",
            "no.jpg",
        ]
        (photos / "tables").mkdir()
        parquet(photos / "t.parquet", {"uri": uris})
        (photos / "t.csv").write_text("uri\n" + "\n".join(uris) + "\n")
        (photos / "t.txt").write_text("\r\n".join(["", *uris[:2], "  ", *uris[2:]]))
        canonical = [encode(uri) for uri in uris]
        canonical[1] = canonical[0]
        for kind in ("parquet", "csv", "txt"):
            src = source(photos / f"t.{kind}")
            refs = list(src.images())
            assert [ref.uri for ref in refs] == canonical
            assert [ref.member for ref in refs] == [None, "#2", None, None, None, None]
            assert [read(src, ref) for ref in refs[:4]] == [b"photos/a b.jpg"] * 2 + [b"photos/100%.jpg", b"out.jpg"]
            assert src.columns == [] and src.root == str(photos)
            assert_goes_on_behind_any(src)

    def test_uris_are_relative_to_their_own_table(self, photos: Path) -> None:
        for part in ("1", "2"):
            parquet(photos / f"tables/{part}/x.parquet", {"uri": ["../../photos/c.jpg", "./own.jpg"]})
        src = source(photos / "tables/*/x.parquet")
        refs = list(src.images())
        assert [ref.uri for ref in refs] == ["../photos/c.jpg", "1/own.jpg", "../photos/c.jpg", "2/own.jpg"]
        assert [ref.member for ref in refs] == [None, None, "#2", None]
        assert read(src, refs[0]) == read(src, refs[2]) == b"photos/c.jpg"
        assert_goes_on_behind_any(src)

    def test_other_columns_ride_along_with_their_types(self, photos: Path) -> None:
        columns = {
            "i": pa.array([1, None, 3], pa.int16()),
            "f": pa.array([0.5, float("inf"), None], pa.float32()),
            "d": pa.array([Decimal("1.25"), None, Decimal("-2.00")], pa.decimal128(10, 2)),
            "day": pa.array([date(2020, 1, 2), None, date(1969, 7, 20)], pa.date32()),
            "t": pa.array([10**18 + 1, None, 2], pa.timestamp("ns", "UTC")),
            "l": pa.array([[1, 2], [], None], pa.list_(pa.int32())),
            "s": pa.array([{"x": 1}, None, {"x": 2}], pa.struct({"x": pa.int8()})),
            "b": pa.array([b"\xff", b"", None], pa.binary()),
            "c": pa.array(["x", "y", "x"]).dictionary_encode(),
            "u": pa.array([bytes(16), None, bytes(range(16))], pa.uuid()),
        }
        src = source(parquet(photos / "t.parquet", {"uri": ["a.jpg", "b.jpg", "c.jpg"], **columns}))
        expected = pa.table(columns).set_column(8, "c", pa.array(["x", "y", "x"]))
        expected = expected.set_column(9, "u", columns["u"].storage)
        assert pa.schema(src.columns) == expected.schema
        rows = [ref.columns for ref in src.images()]
        assert pa.Table.from_pylist(rows, schema=pa.schema(src.columns)).equals(expected)

    def test_csv_types_are_those_of_the_first_block(self, photos: Path) -> None:
        (photos / "t.csv").write_text('uri,n,x,empty,species\n"a,""\n.jpg",1,0.5,,007\nb.jpg,,2,,\n')
        src = source(photos / "t.csv", "species")
        text = pa.string()
        assert src.columns == [
            pa.field(name, kind)
            for name, kind in [("n", pa.int64()), ("x", pa.float64()), ("empty", text), ("species", text)]
        ]
        first, second = src.images()
        assert first.uri == encode('a,"\n.jpg') and first.label == "007"
        assert first.columns == {"n": 1, "x": 0.5, "empty": "", "species": "007"}
        assert second.columns["n"] is None and second.label is None
        (photos / "t.csv").write_text("uri,n\n" + f"{'long/' * 50}name.jpg,1\n" * 5_000 + "a.jpg,many\n")
        assert_refused(photos / "t.csv", "invalid value 'many' .*first block")

    def test_labels(self, photos: Path) -> None:
        table = {"uri": ["cats/a.jpg", "s3://b/dogs/b.jpg", "/abs/c.jpg"], "n": [1, None, 3], "label": ["x", "", "z"]}

        def labels(asked: str | None, **columns: Any) -> list[str | None]:
            return [ref.label for ref in source(parquet(photos / "t.parquet", columns), asked).images()]

        assert labels("n", uri=table["uri"], n=table["n"]) == ["1", None, "3"]
        assert labels("label", **table) == ["x", None, "z"]
        assert [field.name for field in source(photos / "t.parquet", "label").columns] == ["n"]
        assert labels("folder", uri=table["uri"]) == ["cats", None, None]
        assert labels(None, uri=table["uri"]) == [None] * 3

    def test_a_row_without_uri_is_accounted_for(self, photos: Path) -> None:
        src = source(parquet(photos / "t.parquet", {"uri": ["a.jpg", None, "", "b.jpg"], "row": [0, 1, 2, 3]}))
        refs = list(src.images())
        assert [(ref.uri, ref.member, ref.columns["row"]) for ref in refs] == [
            ("a.jpg", None, 0),
            ("", None, 1),
            ("", "#2", 2),
            ("b.jpg", None, 3),
        ]
        assert_goes_on_behind_any(src)

    def test_lines_are_bytes(self, photos: Path) -> None:
        (photos / "t.txt").write_bytes(b"# not a comment.jpg\n\xff.jpg\n a.jpg \n")
        uris = [ref.uri for ref in source(photos / "t.txt").images()]
        assert uris == ["%23%20not%20a%20comment.jpg", "%FF.jpg", "%20a.jpg%20"]

    def test_mistakes_are_sentences(self, photos: Path) -> None:
        table = photos / "t.parquet"
        assert_refused(parquet(table, {"url": ["a"], "n": [1]}), "no column 'uri' .* it has 'url', 'n', of which 'url'")
        assert_refused(parquet(table, {"uri": [1]}), "'uri' of .* holds int64; it must be text")
        assert_refused(
            parquet(table, {"uri": ["a"], "species": ["x"]}), "'spceies' for labels.*'species' is nearest", "spceies"
        )
        assert_refused(parquet(table, {"uri": ["a"], "width": [1], "key": [2]}), "width, key; rename them")
        assert_refused(parquet(table, {"uri": ["a"], "label": ["x"]}), "label; rename them, or say labels: label")
        assert_refused(parquet(table, {"uri": pa.array([], pa.string())}), r"no images in the table .*t\.parquet\.$")
        table.write_bytes(b"PAR1 no parquet")
        assert_refused(table, "Can't read the table .*t.parquet: ")
        assert_refused(photos / "no.csv", "no.csv: there is no such file")
        for text, sentence in [
            ("", "Empty CSV"),
            ("uri,uri\na,b\n", "'uri' more than once"),
            ("uri;n\na;1\n", "no column 'uri'.*it has 'uri;n'"),
            ("uri,n\na,1,2\n", "Expected 2 columns, got 3"),
            ("uri\n", "no images in the table"),
        ]:
            (photos / "t.csv").write_text(text)
            assert_refused(photos / "t.csv", sentence)

    def test_tables_read_together_have_the_same_columns(self, photos: Path) -> None:
        parquet(photos / "t/1.parquet", {"uri": ["a"], "n": [1]})
        parquet(photos / "t/2.parquet", {"n": [2], "uri": ["b"]})
        assert len(list(source(photos / "t/*.parquet").images())) == 2
        parquet(photos / "t/3.parquet", {"uri": ["c"], "n": ["three"]})
        assert_refused(photos / "t/*.parquet", r"'n' is string in .*3\.parquet but not in .*1\.parquet")
        parquet(photos / "t/3.parquet", {"uri": ["c"]})
        assert_refused(photos / "t/*.parquet", r"'n' is missing in .*3\.parquet")

    @settings(max_examples=30, deadline=None)
    @given(uris=st.lists(st.sampled_from(["a.jpg", "b.jpg", "", "ü c.jpg", "/d.jpg", "x/../a.jpg"]), min_size=1))
    def test_every_row_is_an_image_of_its_own(self, uris: list[str]) -> None:
        with TemporaryDirectory() as folder:
            src = source(parquet(Path(folder, "t.parquet"), {"uri": uris}))
            assert len(set(identities(src))) == len(uris)
            assert_goes_on_behind_any(src)


def test_occurrences_count_beyond_what_is_kept_as_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Occurrences, "_RECENT", 8)
    occurrences = Occurrences()
    for round in range(1, 4):
        assert {occurrences.count(str(i)) for i in range(1000)} == {round}


@pytest.fixture(scope="module")
def bucket(make_bucket: Callable[[], str]) -> str:
    return make_bucket()


class TestObjectStore:
    def put(self, url: str, files: Mapping[str, bytes]) -> str:
        for name, data in files.items():
            open_store(url).create(encode(name), data)
        return url

    def test_a_prefix(self, bucket: str) -> None:
        names = ["a.jpg", "cats/b c.PNG", "cats/100%.jpg", "ü#?.webp", "notes.txt", "run/x.jpg"]
        url = self.put(f"{bucket}/photos", {name: name.encode() for name in names})
        self.put(f"{bucket}/photos2", {"other.jpg": b""})
        src = source(f"{url}/", "folder", exclude=f"{url}/run")
        refs = list(src.images())
        assert sorted(ref.uri for ref in refs) == sorted(map(encode, [*names[:4]]))
        assert all(encode(read(src, ref).decode()) == ref.uri for ref in refs)
        assert {ref.uri: ref.label for ref in refs}["cats/100%25.jpg"] == "cats"
        assert src.root == url and src.ignored == {".txt": 1}
        assert_goes_on_behind_any(src)
        assert_refused(f"{bucket}/nothing", r"There are no images in s3://.*/nothing\. Images end in ")

    def test_one_image(self, bucket: str) -> None:
        self.put(f"{bucket}/single", {"a b.jpg": b"data"})
        src = source(f"{bucket}/single/a%20b.jpg")
        [ref] = src.images()
        assert ref.uri == "a%20b.jpg" and read(src, ref) == b"data"
        assert_refused(f"{bucket}/single/no.jpg", "there is no such object")

    def test_tars(self, bucket: str) -> None:
        big = [("x.jpg", bytes(300_000)), ("y.json", json.dumps({"kind": "z"}).encode()), ("y.jpg", bytes(range(256)))]
        url = self.put(f"{bucket}/shards", {"00.tar": tar_bytes(big), "01.tar": tar_bytes(shard(1)), "x.txt": b""})
        for pattern in ("*.tar", "{00..01}.tar"):
            src = source(f"{url}/{pattern}", "kind")
            refs = list(src.images())
            assert [(ref.uri, ref.member) for ref in refs[:2]] == [("00.tar", "x.jpg"), ("00.tar", "y.jpg")]
            assert [read(src, ref) for ref in refs[1:3]] == [bytes(range(256)), b"jpg 10"]
            assert [ref.label for ref in refs] == [None, "z", None, None, None]
            assert_goes_on_behind_any(src)

    def test_tables(self, bucket: str, tmp_path: Path) -> None:
        self.put(f"{bucket}/pictures", {"a b.jpg": b"data"})
        table = parquet(
            tmp_path / "t.parquet", {"uri": ["../pictures/a b.jpg", f"{bucket}/pictures/a b.jpg"], "n": [1, 2]}
        )
        text = f"../pictures/a b.jpg\n{bucket}/pictures/a%20b.jpg\n".encode()
        url = self.put(f"{bucket}/tables", {"t.parquet": table.read_bytes(), "t.txt": text, "t.csv": b"uri\n" + text})
        for place in (f"{url}/t.parquet", f"{url}/t.csv", f"{url}/t.txt", table):
            src = source(place)
            refs = list(src.images())
            assert [ref.uri for ref in refs] == ["../pictures/a%20b.jpg", f"{bucket}/pictures/a%20b.jpg"]
            assert read(src, refs[1]) == b"data"
            assert place is table or read(src, refs[0]) == b"data"
            assert_goes_on_behind_any(src)


def test_a_glob_of_files_passes_over_those_that_are_no_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "c.txt", "d.jpg"):
        (tmp_path / name).write_bytes(b"x")
    source = open_source(SourceParams(uri=f"{tmp_path}/{{a,b,c}}.*"), reserved=frozenset())
    assert [image.uri for image in source.images()] == ["a.jpg", "b.png"] and source.ignored == {".txt": 1}
