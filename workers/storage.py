"""Files by name under a root, on a local disk or in an object store. Nothing counts before it is durable. No torch.

Names are relative URIs: percent-encoded, `/` between folders. So any file name a disk can hold has a name here.
"""
# ruff: noqa: D102 - the methods of a store are described where `Store` declares them

from __future__ import annotations

import ctypes
import errno
import io
import os
import re
import secrets
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast
from urllib.parse import quote, unquote, unquote_to_bytes

import obstore
import obstore.store
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.exceptions import NotFoundError as ObjectNotFoundError

from workers.errors import PixgradError, first_line

OBJECT_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl", "azure", "http", "https")
_READ_AHEAD = 128 * 1024
_REPEAT_FOR = timedelta(seconds=60)

_METADATA_ADDRESS = "169.254.169.254"
"""Where a client asks for an instance's role when it has no credentials of its own."""

_NO_HARD_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))
_NO_KEY = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|$)")


class StorageError(PixgradError):
    """A file could not be read or written."""

    exit_code = 4


class MissingError(StorageError):
    """There is no file of that name."""

    exit_code = 2


class UnusableNameError(StorageError):
    """No file of a store can have that name."""


class Entry(NamedTuple):
    """One file of a listing: its name and its size in bytes."""

    name: str
    size: int


class Store(ABC):
    """The files under one root. Every method raises StorageError (MissingError where there is no such file)."""

    url: str

    @abstractmethod
    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes of a file, or `length` of them from `start`; fewer where the file ends before."""

    @abstractmethod
    def size(self, name: str) -> int:
        """The size of a file in bytes."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A seekable reader that fetches as it goes."""

    @abstractmethod
    def list(self, prefix: str = "", after: str | None = None) -> Iterator[Entry]:
        """Files under the folder `prefix`, in a fixed order, from the first one behind `after`, a name of that listing.

        Files whose names begin with a dot are left out.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if there is none of that name, atomically; True if this call made it."""

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Write a file, atomically, over any that is there."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file; none there is no error."""

    @abstractmethod
    def writer(self, name: str, *, replace: bool = False) -> AbstractContextManager[IO[bytes]]:
        """A context manager that gives a file to write; on leaving it whole, the file exists under `name`.

        Nothing appears if the block raises. Without `replace`, StorageError if there was a file of that name already.
        """

    def check_create(self, name: str) -> None:
        """Raise StorageError unless the store refuses to create `name`, a file that exists, once more."""
        if self.create(name, b"must not appear"):
            raise StorageError(
                f"{self.url} writes over files that exist although told not to, so a run there isn't safe: "
                f"use a store with conditional writes (S3, GCS, Azure, a local disk)."
            )

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        try:
            self.size(name)
        except MissingError:
            return False
        return True


class LocalStore(Store):
    """A folder. A write is staged beside its place, synced, and linked or renamed into it."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.url = str(root)

    def path(self, name: str) -> Path:
        """Where a file lies on the disk."""
        raw = unquote_to_bytes(name)
        if b"\0" in raw:
            raise UnusableNameError(f"{self.url}/{name} can't be a file's name: it has a zero byte.")
        return self.root / os.fsdecode(raw)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        with self._errors("read", name), self.path(name).open("rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def size(self, name: str) -> int:
        with self._errors("read", name):
            status = self.path(name).stat()
        if not stat.S_ISREG(status.st_mode):
            raise MissingError(f"Can't read {self.url}/{name}: it is a folder or a device, not a file.")
        return status.st_size

    def open(self, name: str) -> BinaryIO:
        with self._errors("read", name):
            return self.path(name).open("rb")

    def list(self, prefix: str = "", after: str | None = None) -> Iterator[Entry]:
        if prefix and not self.path(prefix).exists():
            return  # as in an object store, where a folder without files isn't there
        with self._errors("list", prefix or "."):
            yield from walk(self.path(prefix), prefix.rstrip("/"), after)

    def create(self, name: str, data: bytes) -> bool:
        with self._errors("write", name), self._staged(name) as file:
            file.write(data)
            _sync(file)
            return self._link(Path(file.name), self.path(name))

    def replace(self, name: str, data: bytes) -> None:
        with self._errors("write", name), self._staged(name) as file:
            file.write(data)
            _sync(file)
            self._rename(Path(file.name), self.path(name))

    def delete(self, name: str) -> None:
        with self._errors("delete", name):
            self.path(name).unlink(missing_ok=True)

    @contextmanager
    def writer(self, name: str, *, replace: bool = False) -> Iterator[IO[bytes]]:
        with self._errors("write", name), self._staged(name) as file:
            yield file
            _sync(file)
            if replace:
                self._rename(Path(file.name), self.path(name))
            elif not self._link(Path(file.name), self.path(name)):
                raise StorageError(f"{self.url}/{name} exists already; it is never written twice.")

    @contextmanager
    def _staged(self, name: str) -> Iterator[IO[bytes]]:
        target = self.path(name)
        _make_folder(target.parent)
        staged = target.parent / f".{secrets.token_hex(8)}.staged"
        try:
            with staged.open("wb") as file:
                yield file
        finally:
            staged.unlink(missing_ok=True)

    @staticmethod
    def _link(staged: Path, target: Path) -> bool:
        try:
            _appear(staged, target)
        except FileExistsError:
            return False
        _sync_folder(target.parent)
        return True

    @staticmethod
    def _rename(staged: Path, target: Path) -> None:
        staged.replace(target)
        _sync_folder(target.parent)

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise MissingError(f"Can't {verb} {self.url}/{name}: there is no such file or folder.") from error
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            mend = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
            raise StorageError(f"Can't {verb} {self.url}/{name}: {reason}{mend}.") from error


class ObjectStore(Store):
    """A prefix of an object store (S3, GCS, Azure; HTTP for reading). Credentials come from the environment."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        with self._errors("open", ""):
            try:
                self._store = obstore.store.from_url(
                    self.url,
                    client_options={"allow_http": True} if url.startswith("http://") else None,
                    retry_config={"retry_timeout": _REPEAT_FOR},
                )
            except ValueError as error:
                raise StorageError(f"{self.url} is not a URI: {error}.") from error

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        with self._errors("read", name):
            if length is None and start == 0:
                return bytes(obstore.get(self._store, self._key(name)).bytes())
            return self._range(name, start, self.size(name) if length is None else start + length)

    def _key(self, name: str) -> str:
        key = unquote(name)
        if _NO_KEY.search(key):
            raise UnusableNameError(
                f"{self.url}/{name} can't be an object's name: it has control characters or empty parts."
            )
        return key

    def _range(self, name: str, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        try:
            return bytes(obstore.get_range(self._store, self._key(name), start=start, end=end))
        except BaseError:
            if start >= self.size(name):  # stores refuse a range that begins behind the end
                return b""
            raise

    def size(self, name: str) -> int:
        with self._errors("read", name):
            return obstore.head(self._store, self._key(name))["size"]

    def open(self, name: str) -> BinaryIO:
        raw = _RangeReader(lambda start, length: self.read(name, start, length), self.size(name))
        return cast(BinaryIO, io.BufferedReader(raw, _READ_AHEAD))

    def list(self, prefix: str = "", after: str | None = None) -> Iterator[Entry]:
        with self._errors("list", prefix):
            folder = unquote(prefix).rstrip("/")
            offset = unquote(after) if after is not None else None
            for chunk in obstore.list(self._store, f"{folder}/" if folder else None, offset=offset):
                for meta in chunk:
                    if not any(part.startswith(".") for part in meta["path"].split("/")):
                        yield Entry(quote(meta["path"], safe="/="), meta["size"])

    def create(self, name: str, data: bytes) -> bool:
        with self._errors("write", name):
            try:
                obstore.put(self._store, self._key(name), data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return self.read(name) == data  # the client repeats a request whose answer was lost: it may be ours
            return True

    def replace(self, name: str, data: bytes) -> None:
        with self._errors("write", name):
            obstore.put(self._store, self._key(name), data)

    def delete(self, name: str) -> None:
        with self._errors("delete", name):
            obstore.delete(self._store, self._key(name))

    @contextmanager
    def writer(self, name: str, *, replace: bool = False) -> Iterator[IO[bytes]]:
        with self._errors("write", name), tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            obstore.put(self._store, self._key(name), file, mode="overwrite" if replace else "create")

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        where = f"{self.url}/{name}"
        try:
            yield
        except ObjectNotFoundError as error:
            raise MissingError(f"Can't {verb} {where}: there is no such object.") from error
        except FileNotFoundError as error:
            raise MissingError(f"Can't {verb} {where}: there is no such object.") from error
        except (AlreadyExistsError, PreconditionError) as error:
            raise StorageError(f"{where} exists already; it is never written twice.") from error
        except (BaseError, OSError) as error:
            raise StorageError(f"Can't {verb} {where}: {_reason(error)}.") from error


class _RangeReader(io.RawIOBase):
    """A file fetched range by range, as far as it is asked for."""

    def __init__(self, read: Callable[[int, int], bytes], size: int):
        self._read = read
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read(self._position, len(buffer)) if self._position < self._size else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@lru_cache(maxsize=256)
def open_store(url: str) -> Store:
    """The store under `url`: a local folder, or the prefix of an object store. Opened once a process."""
    return ObjectStore(url) if is_remote(url) else LocalStore(local_path(url))


def is_remote(url: str) -> bool:
    """Whether `url` names an object store (or HTTP), not a local path."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and scheme in OBJECT_SCHEMES


def local_path(url: str) -> str:
    """The path that a `file://` URI names; a plain path is itself."""
    return os.fsdecode(unquote_to_bytes(url.removeprefix("file://"))) if url.startswith("file://") else url


def read_bytes(uri: str) -> bytes:
    """The whole of one file, given by local path or by URI."""
    root, name = split_uri(uri)
    return open_store(root).read(name)


def split_uri(uri: str) -> tuple[str, str]:
    """A file's store and its name there, ready for `open_store`: its bucket in an object store, else its folder."""
    if uri.startswith(("http://", "https://")):
        folder, _, name = uri.rpartition("/")
        return folder, name
    if is_remote(uri):
        scheme, _, place = uri.partition("://")
        bucket, _, name = place.partition("/")
        return f"{scheme}://{bucket}", name
    path = Path(local_path(uri))
    return str(path.parent), encode(path.name)


def encode(path: str) -> str:
    """A local path or object key as a name: percent-encoded, folders kept."""
    return quote(os.fsencode(path), safe="/=")


def walk(folder: Path, prefix: str = "", after: str | None = None) -> Iterator[Entry]:
    """Files under a local folder in depth-first order of their encoded names, from the first one behind `after`.

    Symbolic links are followed unless they lead back to a folder above. Names beginning with a dot are left out.
    """
    yield from _walk(folder, prefix, after.split("/") if after is not None else None, frozenset())


def _walk(folder: Path, prefix: str, after: list[str] | None, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    depth = prefix.count("/") + 1 if prefix else 0
    resume = after[depth] if after is not None and len(after) > depth else None
    with os.scandir(folder) as entries:
        visible = sorted((encode(e.name), e.path) for e in entries if not e.name.startswith("."))
    for name, path in visible:
        if resume is not None and name < resume:
            continue
        child = f"{prefix}/{name}" if prefix else name
        if Path(path).is_dir():
            yield from _walk(Path(path), child, after if name == resume else None, above | {here})
        elif name != resume:
            size = _file_size(path)
            if size is not None:
                yield Entry(child, size)


def _file_size(path: str) -> int | None:
    """The size of a regular file; 0 for a broken link, whose reading will say what is wrong; None for pipes etc."""
    target = Path(path)
    if not target.exists():
        return 0
    return target.stat().st_size if target.is_file() else None


def _appear(staged: Path, target: Path) -> None:
    """Give a staged file its name, atomically; FileExistsError if there is a file of that name."""
    try:
        target.hardlink_to(staged)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_new(staged, target)


def _rename_new(staged: Path, target: Path) -> None:
    """Rename where the disk has no hard links (FAT, SMB, some FUSE): Linux can refuse to replace, atomically."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOTSUP, "no hard links, and no rename that never replaces")
    here, no_replace = -100, 1  # AT_FDCWD, RENAME_NOREPLACE
    if libc.renameat2(here, os.fsencode(staged), here, os.fsencode(target), no_replace):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, their entries on the disk too."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():  # else somebody made it meanwhile
            raise NotADirectoryError(errno.ENOTDIR, "", str(folder)) from None
    _sync_folder(folder.parent)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """What a store's client says, without the XML that S3 answers with."""
    if _METADATA_ADDRESS in str(error):
        return (
            "no credentials were found: set them in the environment (for S3 AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, as profiles aren't read), or work on an instance with a role"
        )
    return first_line(error).split(": <?xml")[0].rstrip(".")
