"""Outputs of a run as plain files, in the source's own tree. No torch, no Ray."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
from PIL import Image

from pipeline.commit import latest_rows
from pipeline.original import to_original
from pipeline.sheet import ContactSheet
from pipeline.status import open_run
from workers.codec import encode_npy
from workers.storage import StorageError, Store, is_remote

LONGEST_NAME = 200
"""Bytes of a file's name that are kept; longer ones end in a piece of their key."""

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
"""Of the single file that an output can be exported as; an attribution also as .npy, its signed map."""

FILE_ENDINGS = (".png", ".npy")
"""Of exported files; a folder of such a name gets an underscore."""


def export(
    store: Store,
    destination: Path,
    *,
    class_tree: bool,
    original_geometry: bool = False,
    sheet: ContactSheet | None = None,
) -> int:
    """Write the outputs of every ok row under `destination`; how many outputs there were.

    A source's folders are kept, several variants get one each, and with `class_tree` the label is the first folder.
    With `original_geometry` each map comes as `<name>.original.npy` too: pixel for pixel that of its source image.
    A contact sheet gets each picture, too. Nothing is written outside `destination`, whatever the names say.
    Raises NoRunError, StorageError.
    """
    taken: set[int] = set()
    outputs = 0
    several = len(open_run(store)["variants"]) > 1
    for row, files in made_outputs(store):
        named = row if several else {**row, "variant": ""}
        if original_geometry and "npy" in files:
            files["original.npy"] = _in_original_geometry(files["npy"], row)
        path = _unique(export_path(named, class_tree=class_tree), row["key"], taken)
        _write(destination / path, files)
        outputs += 1
        if sheet:
            sheet.add(row, files["png"])
    return outputs


def export_picture(store: Store, path: Path) -> bool:
    """Write the output of a run that has only one to `path`, as its ending says; False if there is none to write.

    JPEG and WebP are made from the PNG. Raises StorageError.
    """
    ending = path.suffix.lower()
    for _, files in made_outputs(store):
        _write_file(path, files[ending[1:]] if ending in FILE_ENDINGS else _reencoded(files["png"], ending))
        return True
    return False


def made_outputs(store: Store) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """Every ok row, the latest of its output, with its files by extension (png, npy). Raises StorageError."""
    for rows in latest_rows(store):
        yield from _with_files(store, [row for row in rows.to_pylist() if row["status"] == "ok"])


def _reencoded(png: bytes, ending: str) -> bytes:
    buffer = BytesIO()
    try:
        with Image.open(BytesIO(png), formats=["PNG"]) as picture:
            picture.save(buffer, Image.registered_extensions()[ending], quality=95)
    except (OSError, ValueError) as error:
        raise StorageError(f"This picture can't be written as {ending} ({error}); choose .png.") from error
    return buffer.getvalue()


def _in_original_geometry(data: bytes, row: Mapping[str, Any]) -> bytes:
    values = np.load(BytesIO(data), allow_pickle=False)
    return encode_npy(to_original(values, row).astype(np.float32))


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    for extension, data in files.items():
        _write_file(path.with_name(f"{path.name}.{extension}"), data)


def _write_file(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
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
