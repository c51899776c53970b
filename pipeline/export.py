"""Outputs of a run as plain files, in the source's own tree. No torch, no Ray."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from pipeline.commit import latest_rows
from pipeline.sheet import ContactSheet
from workers.storage import StorageError, Store, is_remote

LONGEST_NAME = 200
"""Bytes of a file's name that are kept; longer ones end in a piece of their key."""

FILE_ENDINGS = (".png", ".npy")
"""Of exported files; a folder of such a name gets an underscore."""


def export(store: Store, destination: Path, *, class_tree: bool, sheet: ContactSheet | None = None) -> int:
    """Write the outputs of every ok row under `destination`; how many outputs there were.

    A source's folders are kept, a grid gets one folder a variant, and with `class_tree` the label is the first folder.
    A contact sheet gets each picture, too.
    Nothing is written outside `destination`, whatever the names say. Raises StorageError.
    """
    taken: set[int] = set()
    outputs = 0
    for rows in latest_rows(store):
        ok = [row for row in rows.to_pylist() if row["status"] == "ok"]
        for row, files in _with_files(store, ok):
            path = _unique(export_path(row, class_tree=class_tree), row["key"], taken)
            _write(destination / path, files)
            outputs += 1
            if sheet:
                sheet.add(row, files["png"])
    return outputs


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for extension, data in files.items():
            path.with_name(f"{path.name}.{extension}").write_bytes(data)
    except OSError as error:
        raise StorageError(f"Can't write {path}: {os.strerror(error.errno or 0)}; choose another DEST.") from error


def export_path(row: Mapping[str, Any], *, class_tree: bool) -> PurePosixPath:
    """Where an output goes, relative to the destination and without extension."""
    parts = _parts(row["uri"])
    if row["member"]:
        parts = [*parts[:-1], _stem(parts[-1]), *_parts(row["member"])]
    if class_tree and row["label"] is not None:
        parts = [str(row["label"]), parts[-1]]
    folder = [row["variant"]] if row["variant"] else []
    names = [*map(_folder_name, (*folder, *parts[:-1])), _stem(parts[-1])]
    return PurePosixPath(*(_safe(name, row["key"]) for name in names))


def _with_files(store: Store, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    by_shard: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], {})[row["key"]] = row
    for shard, wanted in by_shard.items():
        for key, files in read_samples(store, shard):
            if key in wanted:
                yield wanted[key], {e: data for e, data in files.items() if e != "json"}


def read_samples(store: Store, shard: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a shard: key, and files by extension."""
    try:
        with store.open(shard) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            members = ((*m.name.partition("."), tar.extractfile(m)) for m in tar)
            for key, group in groupby(members, key=itemgetter(0)):
                yield key, {extension: content.read() for _, _, extension, content in group if content}
    except tarfile.TarError as error:
        raise StorageError(f"{store.url}/{shard} is damaged ({error}); `pixgrad verify` says what else is.") from error


def _parts(uri: str) -> list[str]:
    path = urlsplit(uri).netloc + "/" + urlsplit(uri).path if is_remote(uri) else uri.removeprefix("file://")
    names = os.fsdecode(unquote_to_bytes(path)).split("/")
    return [name for name in names if name not in ("", ".", "..")] or ["image"]


def _folder_name(name: str) -> str:
    """`a.jpg` becomes `a.png`, which must not be a folder's name."""
    return f"{name}_" if name.lower().endswith(FILE_ENDINGS) else name


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _safe(name: str, key: str) -> str:
    name = name.replace("/", "_").replace("\0", "_")
    if name in ("", ".", ".."):
        return "_"
    raw = os.fsencode(name)
    return name if len(raw) <= LONGEST_NAME else os.fsdecode(raw[: LONGEST_NAME - 9]) + "-" + key[:8]


def _unique(path: PurePosixPath, key: str, taken: set[int]) -> PurePosixPath:
    """`a.jpg` and `a.png` in one folder would both become `a`: the later one gets a piece of its key."""
    while hash(path) in taken:
        path = path.with_name(f"{path.name}-{key[:8]}")
    taken.add(hash(path))
    return path
