"""Files named by a path, a glob (`shards/*.tar`, `**` for folders at any depth) or braces (`{000..010}`, `{a,b}`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote, unquote, unquote_to_bytes

from pipeline.listing import SourceError
from workers.storage import encode, is_remote, local_path, open_store

_GLOB = re.compile(r"[*?\[]")
_MAGIC = re.compile(r"[*?\[{]")


def find_files(uri: str, exclude: str | None = None) -> tuple[str, list[str]]:
    """The folder or prefix that `uri` starts from, and the names of its files there, in a fixed order.

    Braces keep the order they are written in and must all exist when they are read; globs give what there is, without
    names that begin with a dot and without what lies in the folder `exclude`. A local file whose very name has such
    characters comes first. Raises SourceError if a glob finds nothing.
    """
    root, pattern = _split(uri)
    if not _MAGIC.search(pattern) or (not is_remote(uri) and Path(root, pattern).exists()):
        return root, [encode(pattern)]
    excluded = relative_to(root, exclude)
    names: dict[str, None] = {}
    for expanded in _expand_braces(pattern):
        if _GLOB.search(expanded):
            names |= dict.fromkeys(name for name in _glob(root, expanded) if not lies_in(name, excluded))
        else:
            names[encode(expanded)] = None
    if not names:
        raise SourceError(f"No file matches {uri}.")
    return root, list(names)


def is_pattern(uri: str) -> bool:
    """Whether `uri` is a glob or has braces, and is not the very name of a local file or folder."""
    place = absolute(uri)
    return bool(_MAGIC.search(place)) and (is_remote(uri) or not Path(place).exists())


def absolute(uri: str) -> str:
    """A place as workers can open it from anywhere: local paths absolute, without a final slash."""
    return uri.rstrip("/") if is_remote(uri) else str(Path(local_path(uri)).expanduser().absolute())


def relative_to(root: str, folder: str | None) -> str | None:
    """The name of `folder` in `root`; None if it doesn't lie in there."""
    if folder is None or is_remote(folder) != is_remote(root):
        return None
    if is_remote(root):
        inside = folder.rstrip("/").startswith(f"{root}/")
        return quote(unquote_to_bytes(folder.rstrip("/")[len(root) + 1 :]), safe="/=") if inside else None
    place, start = Path(absolute(folder)).resolve(), Path(root).resolve()
    return encode(str(place.relative_to(start))) if start in place.parents else None


def lies_in(name: str, folder: str | None) -> bool:
    """Whether a name lies in a folder, both relative to the same root; False if there is no folder."""
    return folder is not None and name.startswith(f"{folder}/")


def _split(uri: str) -> tuple[str, str]:
    """The folder before the first component with a pattern, and the rest, decoded."""
    place = absolute(uri)
    magic = None if not is_remote(uri) and Path(place).exists() else _MAGIC.search(place)
    end = place.rfind("/", 0, magic.start() if magic else len(place))
    root, rest = place[:end] or "/", place[end + 1 :]
    if not is_remote(uri):
        return root, rest
    if not is_remote(root):
        raise SourceError(f"{uri} names no file in a bucket; write the bucket's own name, then a file or a pattern.")
    return root, unquote(rest)


def _expand_braces(pattern: str) -> list[str]:
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if not braces:
        return [pattern]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [whole for choice in _choices(braces[1]) for whole in _expand_braces(before + choice + after)]


def _choices(inside: str) -> Sequence[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if not numbers:
        return inside.split(",")
    first, last = numbers.groups()
    width = len(first) if first.startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]


def _glob(root: str, pattern: str) -> Iterator[str]:
    parts = pattern.split("/")
    for entry in open_store(root).list():
        raw = os.fsdecode(unquote_to_bytes(entry.name))
        if _matches(raw.split("/"), parts):
            yield entry.name


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns or not names:
        return not patterns and not names
    if patterns[0] == "**":
        return _matches(names, patterns[1:]) or _matches(names[1:], patterns)
    return fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])
