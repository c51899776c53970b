"""Fetching weights over HTTP into the same folder that torch.hub keeps them in. No torch."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from workers.errors import ModelError

_CHUNK = 2**20
_TIMEOUT_SECONDS = 60
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}


class _Failed(Exception):
    """One attempt failed; `passing` says whether another one may not."""

    def __init__(self, reason: str, *, passing: bool = True):
        super().__init__(reason)
        self.passing = passing


def hub_folder() -> Path:
    """Where torch.hub keeps checkpoints: under TORCH_HOME, else XDG_CACHE_HOME/torch, else ~/.cache/torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def store(data: bytes, name: str) -> Path:
    """Keep `data` in the cache under its own hash and `name`; the same data twice is one file. Raises ModelError."""
    target = hub_folder() / "pixgrad" / f"{hashlib.sha256(data).hexdigest()[:16]}-{name}"
    if not target.exists():
        with _replacing(target) as file:
            file.write(data)
    return target


def download(url: str, target: Path, sha256_prefix: str | None, *, attempts: int = 4, first_wait: float = 1.0) -> None:
    """Fetch `url` into `target`, which appears whole and with the right hash or not at all.

    Refused, broken, truncated and corrupted transfers are tried again after `first_wait` seconds, then twice that, and
    so on; a client error (404, 403) is final. Raises ModelError with the URL, the reason and what to do.
    """
    for attempt in range(attempts):
        try:
            with _replacing(target) as file:
                _check(_copy(url, file), sha256_prefix)
            return
        except _Failed as failure:
            if attempt + 1 == attempts or not failure.passing:
                raise ModelError(
                    f"could not download weights from {url} ({failure}); put that file at {target} yourself, give "
                    "model.weights a path, or set PIXGRAD_WEIGHTS_MIRROR to the URL of a folder that has it"
                ) from failure
            time.sleep(first_wait * 2**attempt)


def _copy(url: str, file: BinaryIO) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(url):
        digest.update(chunk)
        file.write(chunk)
    return digest.hexdigest()


def _check(sha256: str, prefix: str | None) -> None:
    if prefix and not sha256.startswith(prefix):
        raise _Failed(f"what came has the SHA-256 {sha256[: len(prefix)]}…, its name promises {prefix}…")


def _chunks(url: str) -> Iterator[bytes]:
    if not url.startswith(("http://", "https://")):
        raise _Failed("only http:// and https:// are fetched", passing=False)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            expected = response.headers.get("Content-Length")
            received = 0
            while chunk := response.read(_CHUNK):
                received += len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        raise _Failed(f"HTTP {error.code} {error.reason}", passing=error.code in _WORTH_ANOTHER_TRY) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Failed(str(getattr(error, "reason", error)) or type(error).__name__) from error
    if expected is not None and received != int(expected):
        raise _Failed(f"the transfer broke off after {received} of {expected} bytes")


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `target` if the block ends well, and leaves nothing behind if it doesn't."""
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file, _removed_on_error(part):
            yield file
        part.replace(target)
    except OSError as error:
        raise ModelError(f"could not write {target} ({error}); free some space or set TORCH_HOME elsewhere") from error


@contextmanager
def _removed_on_error(part: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        part.unlink(missing_ok=True)
        raise
