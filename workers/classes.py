"""A network's classes by index or by name. No torch: the driver answers a wrong name before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from workers.errors import ModelError


def class_index(wanted: int | str, classes: int, names: Sequence[str] | None) -> int:
    """The index of a class of `classes`, given by index, by name, or by a comma-separated synonym in its name.

    Case doesn't matter, and a whole name goes before a synonym. Raises ModelError for an index out of range, for a name
    that no class or more than one class has, and for any name if the network has no class `names`.
    """
    if isinstance(wanted, str) and wanted.strip().isdecimal() and wanted.strip() not in (names or ()):
        wanted = int(wanted)
    if isinstance(wanted, int):
        if 0 <= wanted < classes:
            return wanted
        raise ModelError(f"there is no class {wanted}: this network has classes 0 to {classes - 1}")
    if names is None:
        raise ModelError(f"the network has no class names: give the index of {wanted!r}, or the names as model.classes")
    return _class_named(wanted, names)


def _class_named(wanted: str, names: Sequence[str]) -> int:
    key = wanted.strip().casefold()
    by_name = [i for i, name in enumerate(names) if name.strip().casefold() == key]
    found = by_name or [i for i, name in enumerate(names) if key in _synonyms(name)]
    if len(found) > 1:
        raise ModelError(f"{wanted!r} names the classes {', '.join(map(str, found))}: give the index of the one meant")
    if not found:
        near = get_close_matches(key, sorted({synonym for name in names for synonym in _synonyms(name)}), n=5)
        hint = f"the nearest names are {', '.join(near)}" if near else "give a class name of the network, or an index"
        raise ModelError(f"unknown class {wanted!r}: {hint}")
    return found[0]


def _synonyms(name: str) -> list[str]:
    return [part.strip().casefold() for part in name.split(",")]
