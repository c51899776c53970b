"""Images that the job itself names (styles, guides): found, read once, checked and hashed before the run."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

from pipeline.listing import IMAGE_SUFFIXES, suffix
from pipeline.patterns import find_files
from workers.codec import decode
from workers.errors import ImageError, PixgradError
from workers.params import ImageParams
from workers.setup import Picture
from workers.storage import is_remote, open_store, read_bytes

READERS = 8
"""Threads that read and decode; most of it happens outside Python's lock."""


class PictureError(PixgradError):
    """An image that the job names can't be used."""


def find_pictures(patterns: Sequence[str], images: ImageParams, least_side: int = 1) -> list[Picture]:
    """The images that files, globs, folders and URIs name, in order, each once.

    Names are the files' without ending; where two are the same, a piece of the content's hash follows.
    Raises PictureError for a pattern that finds nothing and for an image that can't be read or decoded, or whose
    shorter side, when decoded, has fewer than `least_side` pixels; StorageError.
    """
    uris = list(dict.fromkeys(uri for pattern in patterns for uri in expand(pattern)))
    found: dict[tuple[str, str], str] = {}
    with ThreadPoolExecutor(READERS) as pool:
        hashes = pool.map(partial(_checked_hash, images=images, least_side=least_side), uris)
        for uri, sha256 in zip(uris, hashes, strict=True):
            found.setdefault((PurePosixPath(uri).stem, sha256), uri)  # a copy elsewhere is the same
    seen = Counter(stem.lower() for stem, _ in found)
    return [
        Picture(uri, f"{stem}-{sha256[:8]}" if seen[stem.lower()] > 1 else stem, sha256)
        for (stem, sha256), uri in found.items()
    ]


def expand(pattern: str) -> Iterator[str]:
    """The images that one file, glob, folder or URI names, in order. Raises SourceError, PictureError, StorageError."""
    root, names = find_files(pattern)
    for name in names:
        if suffix(name) in IMAGE_SUFFIXES:
            yield _join(root, name)
            continue
        store = open_store(root)
        if store.exists(name):
            raise PictureError(f"{_join(root, name)} is no image, by its ending; leave it out.")
        inside = [_join(root, e.name) for e in store.list(name) if suffix(e.name) in IMAGE_SUFFIXES]
        if not inside:
            raise PictureError(f"{pattern} names no image, nor a folder with images in it.")
        yield from inside


def _join(root: str, name: str) -> str:
    return f"{root}/{name}" if is_remote(root) else str(Path(root) / os.fsdecode(unquote_to_bytes(name)))


def _checked_hash(uri: str, images: ImageParams, least_side: int) -> str:
    data = read_bytes(uri)
    try:
        height, width = decode(data, images).frame
    except ImageError as error:
        raise PictureError(f"{uri}: {error}") from None
    if min(height, width) < least_side:
        raise PictureError(
            f"{uri}: it would be {width} x {height} pixels, and the network needs {least_side} at these layers and "
            "scales: leave it out, or choose earlier layers or fewer scales"
        )
    return hashlib.sha256(data).hexdigest()
