"""The bytes of one image: a whole file, or its range of a tar. No torch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from workers.errors import ImageError
from workers.records import ImageRef
from workers.storage import (
    LocalStore,
    MissingError,
    StorageError,
    Store,
    UnusableNameError,
    is_remote,
    open_store,
    split_uri,
)

_THE_FILES_OWN = frozenset(
    (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO)
)
"""What a local disk says of one file; the rest (EIO, ESTALE, EMFILE, ...) may be the disk's or the machine's state."""
_FAILURES = 3


class Fetcher:
    """Reads images, whose `uri` is relative to `root` or absolute, and tells a bad image from a store that fails.

    What was read last from a store is its witness: if that can't be read any more either, it isn't the image, and it is
    only the image if it fails `_FAILURES` times with the witness read in between, since where many requests fail by
    chance one image may fail twice. A host of the web without a witness is the image's own affair, a bucket or a disk
    is the run's.
    """

    def __init__(self, root: str, max_bytes: int):
        self._root = root
        self._max_bytes = max_bytes
        self._witnesses: dict[str, str] = {}

    def fetch(self, ref: ImageRef) -> bytes:
        """Exactly the image's bytes, and nothing else of a tar.

        Raises ImageError: "missing" (no such file), "unreadable" (it is refused, or a tar is shorter than when it was
        listed) or, before anything is read, "too_large" (more than `max_bytes`); StorageError if the store fails.
        """
        try:
            store, name = _place(self._root, ref.uri)
        except MissingError as error:
            raise ImageError("missing", str(error)) from error
        except StorageError as error:
            raise ImageError("unreadable", str(error)) from error
        failures = 0
        while True:
            try:
                data = self._read(store, name, ref)
                self._witnesses[store.url] = name
                return data
            except StorageError as error:
                failures += 1
                if not self._may_be_the_images_own(error, store):
                    raise
                if failures == _FAILURES or not self._is_in_doubt(error, store):
                    code = "missing" if isinstance(error, MissingError) else "unreadable"
                    raise ImageError(code, str(error)) from error

    def _read(self, store: Store, name: str, ref: ImageRef) -> bytes:
        size = store.size(name) if ref.bytes is None else ref.bytes
        if size > self._max_bytes:
            raise ImageError("too_large", f"{ref.uri} has {size} bytes; images.max_bytes allows {self._max_bytes}.")
        if ref.offset is None:
            return store.read(name)
        data = store.read(name, ref.offset, size)
        if len(data) < size:
            raise ImageError("unreadable", f"{ref.uri} ends within {ref.member}; the tar was cut after it was listed.")
        return data

    def _may_be_the_images_own(self, error: StorageError, store: Store) -> bool:
        if isinstance(store, LocalStore) and not _holds_anything(Path(store.url)):
            return False  # a mount that went away leaves an empty folder or none
        if _is_said_of_the_file(error):
            return True
        if witness := self._witnesses.get(store.url):
            return _can_read(store, witness)
        return store.url.startswith(("http://", "https://"))

    def _is_in_doubt(self, error: StorageError, store: Store) -> bool:
        return store.url in self._witnesses and not _is_said_of_the_file(error)


def _is_said_of_the_file(error: StorageError) -> bool:
    if isinstance(error, MissingError | UnusableNameError):
        return True
    return getattr(error.__cause__, "errno", None) in _THE_FILES_OWN


def _holds_anything(folder: Path) -> bool:
    try:
        return any(os.scandir(folder))
    except OSError:
        return False


def _can_read(store: Store, name: str) -> bool:
    try:
        store.read(name, 0, 1)
    except StorageError:
        return False
    return True


def _place(root: str, uri: str) -> tuple[Store, str]:
    if not uri:
        raise MissingError("The table's row has no uri.")
    if uri.startswith("file://"):
        uri = "/" + uri.removeprefix("file://").lstrip("/")
    if uri.startswith("/"):
        return open_store("/"), uri.lstrip("/")
    if "://" in uri:
        place, name = split_uri(uri)
        if not is_remote(place):
            raise StorageError(
                f"{uri} is in no kind of store that can be read; copy it to a disk, s3://, gs:// or az://."
            )
        return open_store(place), name
    while is_remote(root) and uri.startswith("../"):
        root, uri = root.rpartition("/")[0], uri.removeprefix("../")
    return open_store(root), uri
