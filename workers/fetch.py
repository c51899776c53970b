"""The bytes of one image: a whole file, or its range of a tar. No torch."""

from __future__ import annotations

from workers.errors import ImageError
from workers.records import ImageRef
from workers.storage import MissingError, StorageError, Store, is_remote, open_store, split_uri


def fetch(root: str, ref: ImageRef, max_bytes: int) -> bytes:
    """Read an image, whose `uri` is relative to `root` or absolute: exactly its bytes, and nothing else of a tar.

    Raises ImageError: "missing" (no such file), "unreadable" (the file or store refuses, or a tar is shorter than when
    it was listed) or, before anything is read, "too_large" (more than `max_bytes`).
    """
    try:
        store, name = _place(root, ref.uri)
        size = store.size(name) if ref.bytes is None else ref.bytes
        if size > max_bytes:
            raise ImageError("too_large", f"{ref.uri} has {size} bytes; images.max_bytes allows {max_bytes}.")
        if ref.offset is None:
            return store.read(name)
        data = store.read(name, ref.offset, size)
    except MissingError as error:
        raise ImageError("missing", str(error)) from error
    except StorageError as error:
        raise ImageError("unreadable", str(error)) from error
    if len(data) < size:
        raise ImageError("unreadable", f"{ref.uri} ends within {ref.member}; the tar was cut after it was listed.")
    return data


def _place(root: str, uri: str) -> tuple[Store, str]:
    if not uri:
        raise MissingError("The table's row has no uri.")
    if uri.startswith("/"):
        return open_store("/"), uri.lstrip("/")
    if "://" in uri:
        if not is_remote(uri) and not uri.startswith("file://"):
            raise StorageError(
                f"{uri} is in no kind of store that can be read; copy it to a disk, s3://, gs:// or az://."
            )
        place, name = split_uri(uri)
        return open_store(place), name
    while is_remote(root) and uri.startswith("../"):
        root, uri = root.rpartition("/")[0], uri.removeprefix("../")
    return open_store(root), uri
